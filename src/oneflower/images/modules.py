"""The kernel's modules in an image: what a virtual machine of KVM may need, out of all that Debian's kernel has.

It is the general kernel: the one for clouds has no AHCI, by which OpenNebula attaches the context CD to q35 machines.
"""

from __future__ import annotations

import lzma
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from oneflower.images.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

# Seen from the folder `kernel/`. What these depend on stays, too.
KEPT = (
    "arch/x86/crypto/*", "crypto/*", "lib/*", "mm/*", "virt/lib/*", "net/core/*", "net/packet/*", "net/8021q/*",
    # disks, CDs, and how they are attached
    "drivers/ata/ahci.ko", "drivers/ata/ata_piix.ko", "drivers/ata/ata_generic.ko", "drivers/block/virtio_blk.ko",
    "drivers/block/loop.ko", "drivers/cdrom/*", "drivers/nvme/host/nvme.ko", "drivers/md/dm-mod.ko",
    "drivers/scsi/virtio_scsi.ko", "drivers/scsi/s[dr]_mod.ko", "drivers/scsi/sg.ko",
    # the hypervisor's other devices
    "drivers/virtio/*", "drivers/char/hw_random/virtio-rng.ko", "drivers/char/virtio_console.ko",
    "drivers/firmware/qemu_fw_cfg.ko", "drivers/watchdog/i6300esb.ko", "drivers/ptp/ptp_kvm.ko",
    "net/vmw_vsock/*virtio*", "drivers/input/mouse/psmouse.ko", "drivers/input/evdev.ko", "drivers/acpi/button.ko",
    "drivers/usb/host/xhci*", "drivers/hid/hid.ko", "drivers/hid/hid-generic.ko", "drivers/hid/usbhid/usbhid.ko",
    "drivers/gpu/drm/tiny/bochs.ko", "drivers/gpu/drm/virtio/*", "drivers/gpu/nvidia/*",
    # network cards: virtual ones, and functions of real ones that are passed through
    "drivers/net/virtio_net.ko", "drivers/net/net_failover.ko", "drivers/net/bonding/*", "drivers/net/dummy.ko",
    "drivers/net/veth.ko", "drivers/net/tun.ko", "drivers/net/wireguard/*", "drivers/net/ethernet/intel/e1000/*",
    "drivers/net/ethernet/intel/e1000e/*", "drivers/net/ethernet/intel/ixgbevf/*",
    "drivers/net/ethernet/intel/iavf/*", "drivers/net/ethernet/mellanox/mlx5/*",
    "drivers/net/ethernet/realtek/8139cp.ko",
    # firewalls and bridges that a START_SCRIPT may want
    "net/netfilter/nf_*", "net/netfilter/nft_*", "net/netfilter/x_tables.ko", "net/netfilter/xt_conntrack.ko",
    "net/ipv4/netfilter/nf_*", "net/ipv6/netfilter/nf_*", "net/bridge/bridge.ko",
    # file systems: of the root, of CDs, of data disks, of servers and of the host
    "fs/ext4/*", "fs/isofs/*", "fs/fat/*", "fs/xfs/*", "fs/nls/nls_ascii.ko", "fs/nls/nls_utf8.ko",
    "fs/nls/nls_cp437.ko", "fs/nls/nls_iso8859-1.ko", "fs/fuse/*", "fs/nfs/*", "fs/autofs/*", "fs/overlayfs/*",
    "fs/efivarfs/*", "fs/pstore/*", "fs/configfs/*",
)  # fmt: skip
_LEFT_OUT = ("arch/x86/crypto/*twofish*", "arch/x86/crypto/*serpent*", "arch/x86/crypto/*camellia*", "lib/test*")


def keep(root: Path) -> None:
    """Remove all other modules from an image."""
    for folder in root.glob("usr/lib/modules/*"):
        stays = closure((folder / "modules.dep").read_text(encoding="ascii"))
        for path in folder.glob("kernel/**/*.ko"):
            if str(path.relative_to(folder)) not in stays:
                path.unlink()
        for empty in sorted((path for path in folder.glob("kernel/**") if path.is_dir()), reverse=True):
            if not any(empty.iterdir()):
                empty.rmdir()
        for path in sorted(folder.glob("kernel/**/*.ko")):
            _compress(path)
        tool(["depmod", "-b", root, folder.name], "list the kernel's modules")


def _compress(path: Path) -> None:
    """Replace a module by its compressed form, which kmod reads. The check is the one that the kernel knows, too."""
    packed = path.with_name(f"{path.name}.xz")
    packed.write_bytes(lzma.compress(path.read_bytes(), check=lzma.CHECK_CRC32))
    packed.chmod(0o644)
    path.unlink()


def closure(dependencies: str) -> set[str]:
    """Return the modules that stay, with all that they depend on, from the content of modules.dep."""
    needs = {}
    for line in dependencies.splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    wanted = [module for module in needs if _is_kept(module.removeprefix("kernel/"))]
    return {*wanted, *(other for module in wanted for other in needs[module])}


def _is_kept(module: str) -> bool:
    return any(fnmatch(module, kept) for kept in KEPT) and not any(fnmatch(module, left) for left in _LEFT_OUT)

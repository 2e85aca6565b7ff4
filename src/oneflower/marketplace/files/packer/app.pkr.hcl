# The context disc of the machine in which the image is built.
source "null" "context" {
  communicator = "none"
}

build {
  sources = ["source.null.context"]

  provisioner "shell-local" {
    inline = [
      "mkdir -p ${var.input_dir}/context",
      "bash ${var.input_dir}/gen_context > ${var.input_dir}/context/context.sh",
      "mkisofs -o ${var.input_dir}/${var.appliance_name}-context.iso -V CONTEXT -J -R ${var.input_dir}/context",
    ]
  }
}

source "qemu" "@APP@" {
  cpus        = 2
  memory      = 4096
  accelerator = "kvm"

  iso_url      = var.base_image
  iso_checksum = "none"
  disk_image   = true

  headless         = var.headless
  disk_cache       = "unsafe"
  disk_interface   = "virtio"
  net_device       = "virtio-net"
  format           = "qcow2"
  disk_size        = "@DISK@M"
  disk_compression = false

  output_directory = var.output_dir
  vm_name          = var.appliance_name

  qemuargs = [
    ["-serial", "stdio"],
    ["-cpu", "host"],
    ["-cdrom", "${var.input_dir}/${var.appliance_name}-context.iso"],
    ["-netdev", "user,id=net0,hostfwd=tcp::{{ .SSHHostPort }}-:22"],
    ["-device", "virtio-net-pci,netdev=net0,mac=00:11:22:33:44:55"],
  ]

  ssh_username     = "root"
  ssh_password     = "opennebula"
  ssh_wait_timeout = "900s"
  shutdown_command = "poweroff"
}

build {
  sources = ["source.qemu.@APP@"]

  provisioner "shell" {
    inline_shebang = "/bin/bash -e"
    inline = [
      "install -o 0 -g 0 -m 0750 -d /etc/one-appliance/{,service.d/,lib/}",
      "install -o 0 -g 0 -m 0755 -d /opt/one-appliance/{,bin/}",
    ]
  }

  provisioner "file" {
    source      = "../one-apps/appliances/scripts/net-90-service-appliance"
    destination = "/etc/one-appliance/"
  }

  provisioner "file" {
    sources     = ["../../lib/common.sh", "../../lib/functions.sh"]
    destination = "/etc/one-appliance/lib/"
  }

  provisioner "file" {
    source      = "../one-apps/appliances/service.sh"
    destination = "/etc/one-appliance/service"
  }

  provisioner "file" {
    sources = [
      "../../appliances/@APP@/appliance.sh",
      "../../appliances/@APP@/requirements.txt",
      "../../appliances/@APP@/appliance.txt",
      "../../appliances/@APP@/@WHEEL@",
@OVERLAY@
    ]
    destination = "/etc/one-appliance/service.d/"
  }

  provisioner "shell" {
    scripts = ["${var.input_dir}/82-configure-context.sh"]
  }

  provisioner "shell" {
    inline_shebang = "/bin/bash -e"
    inline         = ["bash /etc/one-appliance/service install && sync"]
  }

  # Last: from here on nobody logs in with a password.
  provisioner "shell" {
    scripts = ["${var.input_dir}/81-configure-ssh.sh"]
  }

  post-processor "shell-local" {
    execute_command = ["bash", "-c", "{{.Vars}} {{.Script}}"]
    environment_vars = [
      "OUTPUT_DIR=${var.output_dir}",
      "APPLIANCE_NAME=${var.appliance_name}",
    ]
    scripts = ["packer/postprocess.sh"]
  }
}

#!/usr/bin/env bash

# Takes back that packer may log in with a password, which gen_context allowed: from now on only keys log in.

exec 1>&2
set -eux -o pipefail

rm -f /etc/ssh/sshd_config.d/00-packer.conf
cat > /etc/ssh/sshd_config.d/10-oneflower.conf <<'EOF'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
EOF
passwd --lock root

sync

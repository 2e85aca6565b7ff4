#!/usr/bin/env bash
# Flower federations on OpenNebula: the agent of oneflower as a service appliance, on Debian 12 with one-context.
# The agent does what there is to do in the machine. It reads the context itself, makes keys and certificates, starts
# Flower, and reports READY through OneGate when Flower answers. So these functions only install and start it. The units
# are those of oneflower's own images; beside one-context they leave network, name and keys to that.

### CONTEXT SECTION ##########################################################

# All of them are described in README.md. The agent checks them and reports everything that is wrong in FL_ERROR.
# shellcheck disable=SC2034  # read by the service manager
ONE_SERVICE_PARAMS=(
@PARAMS@
)

### APPLIANCE METADATA #######################################################

# shellcheck disable=SC2034
{
    ONE_SERVICE_NAME='Flower federation'
    ONE_SERVICE_VERSION='@FLOWER@'
    ONE_SERVICE_BUILD='@BUILD@'
    ONE_SERVICE_SHORT_DESCRIPTION='A machine of a Flower federation'
    ONE_SERVICE_DESCRIPTION='SuperLink or SuperNode of a federation of Flower, by ONEFLOWER_ROLE.'
    ONE_SERVICE_RECONFIGURABLE=true
}

# shellcheck disable=SC2034  # needed by the functions of the marketplace
ONE_SERVICE_SETUP_DIR=/opt/one-appliance
FILES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)  # beside this file, in the machine as in the contribution
ROOT="${ONEFLOWER_ROOT:-}"  # another root than this machine's, for tests
VENV="$ROOT/opt/oneflower"
SERVICES="oneflower-context.service oneflower-host-keys.service oneflower-agent.service"

### Mandatory functions ######################################################

service_install()
{
    msg info "Install Python"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || return 1
    apt-get install -q -y --no-install-recommends python3-venv libstdc++6 ca-certificates || return 1

    msg info "Install Flower and the agent, each package by its hash"
    python3 -m venv "$VENV" || return 1
    "$VENV/bin/pip" install -q --no-cache-dir --only-binary :all: --require-hashes \
        -r "$FILES/requirements.txt" || return 1
    "$VENV/bin/pip" install -q --no-cache-dir --no-deps --no-index --find-links "$FILES" --require-hashes \
        -r "$FILES/appliance.txt" || return 1

    msg info "Add the user and the services"
    getent passwd oneflower >/dev/null ||
        useradd --system --user-group --home-dir /var/lib/oneflower --shell /usr/sbin/nologin oneflower || return 1
    install -D -m 0644 -t "$ROOT/usr/lib/systemd/system" "$FILES"/oneflower-*.service || return 1
    install -D -m 0644 -t "$ROOT/usr/lib/sysctl.d" "$FILES/60-oneflower.conf" || return 1
    install -D -m 0755 -t "$ROOT/usr/lib/oneflower" "$FILES/ready" || return 1
    # shellcheck disable=SC2086  # several words
    systemctl enable $SERVICES || return 1

    apt-get clean
    rm -rf /var/lib/apt/lists/*
    msg info "INSTALLATION FINISHED"
}

service_configure()
{
    # A changed context: the agent reads it when it starts.
    systemctl restart --no-block oneflower-context.service oneflower-agent.service || return 1
    msg info "CONFIGURATION FINISHED"
}

service_bootstrap()
{
    # READY is the agent's to report, minutes later perhaps: nothing waits for it here.
    systemctl start --no-block oneflower-agent.service || return 1
    msg info "BOOTSTRAP FINISHED"
}

service_help()
{
    msg info "oneflower-agent status tells what the machine does; ONEFLOWER_ROLE is superlink or supernode."
}

service_cleanup()
{
    rm -rf "$VENV"
}

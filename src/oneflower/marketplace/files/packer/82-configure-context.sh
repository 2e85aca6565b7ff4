#!/usr/bin/env bash

# Has the service manager run at each boot. That the machine is ready is for the agent to report, so net-99-report-ready
# is not installed.

exec 1>&2
set -eux -o pipefail

install -o root -g root -m 0755 /etc/one-appliance/net-90-service-appliance /etc/one-context.d/
rm /etc/one-appliance/net-90-service-appliance

sync

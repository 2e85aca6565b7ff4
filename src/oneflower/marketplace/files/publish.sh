#!/usr/bin/env bash
# Publishes a Flower federation in a private marketplace of OpenNebula (of type http or s3). Run it as an administrator on
# the front-end, where the file of the image is:
#
#   ./publish.sh MARKETPLACE NETWORK [FILE] [DATASTORE]
#
# Tenants then import the service from the marketplace, and instantiate it.

set -eu -o pipefail

if [ $# -lt 2 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
market=$1
network=$2
file=$(realpath "${3:-@FILE@}")
datastore=${4:-default}
name='@NAME@'

echo '@SHA256@ ' "$file" | sha256sum --check --quiet

if ! oneimage show "$name" >/dev/null 2>&1; then
    oneimage create --name "$name" --path "$file" --type OS --format qcow2 --prefix vd --datastore "$datastore"
fi
until oneimage show "$name" -x | grep -q '<STATE>[12]</STATE>'; do
    if oneimage show "$name" -x | grep -q '<STATE>5</STATE>'; then
        echo "OpenNebula could not make the image $name: see oneimage show $name" >&2
        exit 1
    fi
    sleep 2
done

oneflower --cloud opennebula register --name "$name" --network "$network" \
    --superlink-image "$name" --supernode-image "$name"
onemarketapp service-template import "$name-form" --yes --market "$market"

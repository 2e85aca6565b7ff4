#!/usr/bin/env bash
# Publishes a Flower federation in a private marketplace of OpenNebula (of type http or s3). Run it as an administrator on
# the front-end, where the file of the image and its manifest are:
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

oneflower --cloud opennebula register --name "$name" --image "$file" --network "$network" --datastore "$datastore"
onemarketapp service-template import "$name-form" --yes --market "$market"

#!/usr/bin/env bash
# Waits for the cloud to say that it takes this spot machine back, and has its cells write a checkpoint and leave.
#
#     cluster/on_preemption.sh aws|gcp
#
# AWS says it two minutes before, GCP 30 seconds. Without this a cell continues from its last regular checkpoint.
set -euo pipefail

cloud=${1:-}
# Of both clouds' metadata servers; a test has one of its own.
server=${ABLATE_METADATA:-http://169.254.169.254}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ask() { curl --silent --fail --max-time 5 "$@"; }

case $cloud in
    aws)
        # There is no such page before the notice.
        noticed() {
            local token
            token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$server/latest/api/token") &&
                ask -H "X-aws-ec2-metadata-token: $token" "$server/latest/meta-data/spot/instance-action" >/dev/null
        }
        ;;
    gcp)
        noticed() {
            [ "$(ask -H 'Metadata-Flavor: Google' "$server/computeMetadata/v1/instance/preempted")" = TRUE ]
        }
        ;;
    *)
        echo "usage: cluster/on_preemption.sh aws|gcp" >&2
        exit 2
        ;;
esac

# `ray up` starts Ray again on a machine that it keeps; one of these is enough.
exec 9>"${TMPDIR:-/tmp}/ablate-on-preemption-$(id -u).lock"
flock -n 9 || exit 0

until noticed; do sleep "${ABLATE_POLL_SECONDS:-2}"; done
echo "$(date -Is) $cloud takes this machine back." >&2
exec ablate drain --runs "$(readlink -f runs)"

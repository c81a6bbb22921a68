#!/usr/bin/env bash
# Makes a machine ready: the shared folder and an environment with the locked versions. The cluster launcher runs it
# on every node; by hand it does for any Linux machine. Run it again and it changes nothing.
#
#     cluster/setup_node.sh SHARED [EXPORT [MOUNT_OPTIONS]]
#
# SHARED is the folder that all nodes see; EXPORT mounts it there by NFS, where the machine does not have it yet.
# The environment is the checkout's .venv; PYTHON makes it (python3, at least 3.11).
set -euo pipefail

shared=${1:?"usage: cluster/setup_node.sh SHARED [EXPORT [MOUNT_OPTIONS]]"}
export_of_nfs=${2:-}
# hard: a write waits for a server that is away instead of failing; a cell that waits is better than one that fails.
options=${3:-nfsvers=3,hard,timeo=600,retrans=2}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -n "$export_of_nfs" ] && ! mountpoint -q "$shared"; then
    # A new machine's own updates hold apt's lock for its first minutes.
    sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
    # gcc builds the suite's CPU kernels, and with Python's own headers what torch.compile needs on a GPU.
    sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
        nfs-common python3-venv python3-dev gcc libc6-dev
    sudo mkdir -p "$shared"
    sudo mount -t nfs -o "$options" "$export_of_nfs" "$shared"
    # The root of a new export belongs to root.
    [ -w "$shared" ] || sudo chown "$(id -u):$(id -g)" "$shared"
fi

# `ablate run STUDY` then needs no option on any machine: its runs and data are those that all nodes see.
for name in runs data; do
    mkdir -p "$shared/$name"
    [ -e "$name" ] || ln -s "$shared/$name" "$name"
done

# Only one at a time (>> opens this file and changes nothing): several nodes may share this folder. With the
# dependencies of what is locked, because torch's CUDA libraries are in no lock that a machine without a GPU wrote;
# torch itself says which versions it takes. The second lock is complete, and without: botocore would have an older
# python-dateutil than the first one has, and works with that.
(
    flock 9
    if ! cmp -s .venv/locked <(cat requirements.lock cluster/requirements.lock pyproject.toml); then
        [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
        .venv/bin/pip install --quiet --requirement requirements.lock
        .venv/bin/pip install --quiet --no-deps --requirement cluster/requirements.lock
        .venv/bin/pip install --quiet --no-deps --editable .
        cat requirements.lock cluster/requirements.lock pyproject.toml >.venv/locked
    fi
) 9>>cluster/setup_node.sh

# Ray's own commands and `ray exec` run in a login shell that reads this file.
say="export PATH='$PWD/.venv/bin':\"\$PATH\" RAY_AUTH_MODE=token"
grep -qxF "$say" ~/.bashrc 2>/dev/null || echo "$say" >>~/.bashrc
[ ! -e ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token

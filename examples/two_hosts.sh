#!/usr/bin/env bash
# Several machines without a scheduler. Give the same command on each of them, within a few minutes:
#
#   FIRST=host-a bash two_hosts.sh DATA RUN --batch-size 4096
#
# FIRST  the name or address of one of the machines; the others must reach its port 29400
# DATA   the same images on each machine
# RUN    a folder that all machines share: only the first process writes it, but that may be anywhere after a restart
# GPUS   processes on this machine; where it is not set, all of its GPUs, or one process where it has none
# NODES  how many machines: 2; or 1:4, where training goes on with whoever is there, from the last checkpoint each time
#        one leaves or joins (batch and result stay what they are)
#
# Ctrl-C on one machine stops it there; training goes on elsewhere if NODES allows it.
set -euo pipefail
# Time to save after a signal; torchrun gives 30 s otherwise.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-150}"
gpus="$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)"
# --rdzv-id keeps two runs that meet at one address apart. --max-restarts: how often all processes start again after one
# of them is lost or a machine joins; a mistake in the command is tried as often, which does no harm.
exec torchrun --nnodes "${NODES:-2}" --nproc-per-node "${GPUS:-$((gpus > 0 ? gpus : 1))}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "${FIRST:?give the name of the first machine}:29400" --rdzv-id "$(basename "$2")" \
    -m openmae pretrain "$1" --out "$2" "${@:3}"

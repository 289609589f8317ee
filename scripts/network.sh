#!/usr/bin/env bash
# Ranks behind limited networks, and what `wgpt plan` says of them: each rank in a network namespace of its own, pinned to a core.
# Usage: scripts/network.sh [ranks]     (as root, with iproute2 and Open MPI; WGPT: a wgpt with the feature mpi; NETWORKS, STEPS, QUEUE)
#
# The time of a step without a network is that of as many single runs at the same time. Prints a line for each network: median
# milliseconds of the sums and of a step, measured and planned, and their ratio.
set -euo pipefail
ranks=${1:-2}
wgpt=$(realpath "${WGPT:-target/release/wgpt}")
folder=$(mktemp -d)
export WGPT_CACHE="$folder/cache" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
cores=$(nproc)
name=wgpt$$
cleanup() {
    for i in $(seq "$ranks"); do ip netns del "$name-$i" 2>/dev/null || true; done
    ip link del "br$$" 2>/dev/null || true
    rm -rf "$folder"
}
trap cleanup EXIT

# Namespaces on a bridge; what each sends is limited where it leaves, with a queue of so many milliseconds of data.
ip link add "br$$" type bridge
ip link set "br$$" up
for i in $(seq "$ranks"); do
    ip netns add "$name-$i"
    ip link add "v$$-$i" type veth peer name eth0 netns "$name-$i"
    ip link set "v$$-$i" master "br$$" up
    ip -n "$name-$i" addr add "10.77.0.$i/24" dev eth0
    ip -n "$name-$i" link set eth0 up
    ip -n "$name-$i" link set lo up
done
# What mpirun calls in place of ssh: a host's address is its namespace.
cat >"$folder/agent" <<EOF
#!/bin/sh
host=\$1 && shift
export TMPDIR="$folder/\$host"
mkdir -p "\$TMPDIR"
exec ip netns exec "$name-\${host##*.}" sh -c "\$*"
EOF
cat >"$folder/rank" <<EOF
#!/bin/sh
exec taskset -c \$((\${OMPI_COMM_WORLD_RANK:-\$RANK} % $cores)) "$wgpt" "\$@"
EOF
chmod +x "$folder/agent" "$folder/rank"

# Many parameters and few tokens, so that the network counts.
model="${MODEL:---layers 2 --heads 4 --width 256 --context 16 --batch 1} --accumulate $ranks --eval-every 0 --save-every 0 --eval-batches 1 --schedule constant -q"
device="--device ${DEVICE:-auto}"
# The kernels are chosen first, so that no run measures them.
"$wgpt" train $model $device --steps 2 --out "$folder/warm"
for i in $(seq "$ranks"); do
    RANK=$((i - 1)) "$folder/rank" train ${model/--accumulate $ranks/--accumulate 1} $device --steps "${ALONE:-30}" --out "$folder/alone-$i" &
done
wait
# Bytes that may leave at once: a few milliseconds of them, and a packet of 64 KiB at least.
burst() {
    case ${1,,} in
        *gbit) echo 1mb ;;
        *) echo 70kb ;;
    esac
}
hosts=$(seq -s, -f '10.77.0.%g:1' "$ranks")
for network in ${NETWORKS:-10Mbit 100Mbit 1Gbit}; do
    for i in $(seq "$ranks"); do ip netns exec "$name-$i" tc qdisc replace dev eth0 root tbf rate "${network,,}" burst "$(burst "$network")" latency "${QUEUE:-200ms}"; done
    ip netns exec "$name-1" mpirun --allow-run-as-root --quiet --bind-to none -np "$ranks" --host "$hosts" \
        --mca plm_rsh_agent "$folder/agent" --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 \
        --mca oob_tcp_if_include 10.77.0.0/24 ${MCA:-} -x WGPT_CACHE -x XDG_RUNTIME_DIR \
        "$folder/rank" train $model $device --steps "${STEPS:-12}" --out "$folder/run-$network"
    # The first steps compile and open connections.
    median() { tail -n +3 "$folder/run-$network/log.jsonl" | grep -o "\"$1\":[0-9.]*" | cut -d: -f2 | sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
    planned=$("$wgpt" plan --run "$folder/alone-1" --accumulate "$ranks" --machines "$ranks" --network "$network" --latency 0.05 |
        awk '$1 == "synchronous" && $2 == "f32" {print $4, $5}')
    echo "$ranks $network $(median transfer_ms) $(median step_ms) $planned" | awk '{printf \
        "%s ranks, %s: transfer %.1f ms, planned %.1f (%.2f); step %.1f ms, planned %.1f (%.2f)\n", $1, $2, $3, $5, $5 / $3, $4, $6, $6 / $4}'
done

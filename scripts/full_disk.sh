#!/bin/sh
# Runs every command that writes on a disk that is full after so many KiB, from none to enough: each either works or ends with
# one sentence and leaves what was there. Needs root, for a small tmpfs. Usage: scripts/full_disk.sh
set -eu
wgpt=$(realpath "${WGPT:-target/release/wgpt}")
place=$(mktemp -d) && cd "$place"
mkdir disk base
trap 'umount "$place/disk" 2>/dev/null; rm -rf "$place"' EXIT
mount -t tmpfs -o size=1m tmpfs disk || { echo "a tmpfs cannot be mounted: run this as root" >&2; exit 2; }
umount disk
WGPT_CACHE="$place/cache" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$place}"
export WGPT_CACHE XDG_RUNTIME_DIR
device=${DEVICE:-cpu}

fail() { echo "FAILED: $*" >&2; exit 1; }
sum() { [ -d "$1" ] && (cd "$1" && find . -type f ! -path '*/.*' | sort | xargs -r sha256sum) | sha256sum | cut -c1-16; }

awk 'BEGIN { srand(1); split("one two three four five six red blue cat dog", w, " ")
    for (i = 0; i < 1500; i++) { for (j = 0; j < 9; j++) printf "%s ", w[1 + int(10 * rand())]; print "." } }' >text.txt
head -c 9000 text.txt >short.txt
(echo text,label; awk 'BEGIN { for (i = 0; i < 8; i++) print "a cat " i ",x\na house " i ",y" }') >rows.csv
tiny="--layers 1 --heads 2 --width 32 --context 32 --batch 2 --tokenizer bytes --data text.txt --device $device -q"
$wgpt train $tiny --steps 3 --eval-every 0 --out base/model
$wgpt finetune -q --model base/model --task classify --data rows.csv --epochs 1 --batch 4 --max-length 16 --device "$device" --out base/tuned

# Mounts a disk on which so many KiB are free beside a copy of a folder, or of nothing.
disk() {
    mount -t tmpfs -o size=40m tmpfs disk
    if [ -d "$2" ]; then cp -a "$2" disk/out; fi
    free=$(df -k --output=avail disk | tail -1)
    fallocate -l "$(((free - $1) * 1024))" disk/filler
}

# Folders: name, old folder, command. The command writes disk/out.
full() {
    name=$1 old=$2 && shift 2
    works=0 fails=0 room=${LEAST:-0}
    while [ "$works" = 0 ]; do
        disk "$room" "$old"
        before=$(sum disk/out)
        if "$@" >out.log 2>err.log; then works=1; else
            code=$?
            fails=$((fails + 1))
            [ "$code" = 1 ] || fail "$name with $room KiB: exit code $code: $(cat err.log)"
            [ "$(grep -c '^error: ' err.log)" = 1 ] || fail "$name with $room KiB: $(cat err.log)"
            grep -q panicked err.log && fail "$name with $room KiB: $(cat err.log)"
            if [ -d "$old" ] && [ "$(sum disk/out)" != "$before" ]; then
                # A run takes the place of the old one with its first checkpoint, which then must be whole.
                newest=$(find disk/out -type d -name 'step-*[0-9]' | sort | tail -1)
                case $name in
                    *--overwrite) (cd "$newest" && sha256sum -c --quiet SHA256SUMS) || fail "$name with $room KiB: no whole checkpoint" ;;
                    *) fail "$name with $room KiB: the old folder has changed" ;;
                esac
            fi
        fi
        umount disk
        room=$((room + ${STEP_KIB:-4})) # the pages of a tmpfs
        [ "$room" -lt 20000 ] || fail "$name does not work with 20 MB"
    done
    [ "$fails" -gt 0 ] || fail "$name: was never full, so nothing was tested"
    echo "$name: $fails times full, then it works"
}
$wgpt data prepare --data short.txt --tokenizer bytes -q --out old_data
$wgpt tokenizer train --data short.txt --vocab 270 -q --out old_tokenizer
full "data prepare" old_data $wgpt data prepare --data text.txt --tokenizer bytes --shard-tokens 5000 -q --out disk/out --overwrite
full "tokenizer train" old_tokenizer $wgpt tokenizer train --data text.txt --vocab 280 -q --out disk/out --overwrite
full export base/tuned $wgpt export --model base/model -q --out disk/out --overwrite
full "train --overwrite" base/model $wgpt train $tiny --steps 6 --save-every 2 --eval-every 0 --seed 2 --out disk/out --overwrite
full "finetune --overwrite" base/tuned $wgpt finetune -q --model base/model --task classify --data rows.csv --epochs 2 --batch 4 --max-length 16 --device "$device" --seed 2 --out disk/out --overwrite

# A run whose disk fills up later goes on from its last checkpoint once there is room.
mount -t tmpfs -o size=900k tmpfs disk
if $wgpt train $tiny --steps 400 --save-every 20 --eval-every 0 --out disk/run >out.log 2>err.log; then echo "train: its checkpoints fit"; else
    [ "$(grep -c '^error: ' err.log)" = 1 ] || fail "train on a disk that fills up: $(cat err.log)"
    mount -o remount,size=40m disk
    $wgpt train --out disk/run --resume -q --device "$device" || fail "train does not go on once there is room"
    $wgpt train $tiny --steps 400 --save-every 20 --eval-every 0 --out whole
    cmp disk/run/model.safetensors whole/model.safetensors || fail "train went on with other bits"
    echo "train: full, then resumed to the same bits"
fi
umount disk
echo "a full disk at every write: nothing lost, no panic"

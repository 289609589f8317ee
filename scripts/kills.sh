#!/bin/sh
# Kills wgpt at random moments: while it trains and saves, fine-tunes, prepares data, exports and trains a tokenizer. After
# every kill the folder that it writes is the old one or the new one, whole; a run that was killed again and again ends with
# the bits of one that was not. Usage: scripts/kills.sh [kills, default 100] [seed]
set -eu
kills=${1:-100} seed=${2:-1}
wgpt=$(realpath "${WGPT:-target/release/wgpt}")
place=$(mktemp -d) && cd "$place"
trap 'rm -rf "$place"' EXIT
WGPT_CACHE="$place/cache" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$place}"
export WGPT_CACHE XDG_RUNTIME_DIR

fail() { echo "FAILED: $*" >&2; cp -r "$place" "${TMPDIR:-/tmp}/wgpt-kills-failed" && exit 1; }
# A number of seconds from 0 up to $1, another one at each call.
random() { seed=$((seed + 1)); awk -v seed="$seed" -v most="$1" 'BEGIN { srand(seed); rand(); printf "%.3f", most * rand() }'; }
# The content of a folder, without what is hidden.
sum() { (cd "$1" && find . -type f ! -path '*/.*' | sort | xargs sha256sum) | sha256sum | cut -c1-16; }
# Runs a command and kills it after a random time of at most $1 seconds, if it has not ended by then.
killed() {
    most=$1 && shift
    wait_for=$(random "$most")
    "$@" >>log 2>&1 &
    pid=$!
    sleep "$wait_for"
    if kill -9 "$pid" 2>/dev/null; then done_kills=$((done_kills + 1)); fi
    wait "$pid" 2>/dev/null && code=0 || code=$?
    grep -q panicked log && fail "a panic: $(grep panicked log)"
    return 0
}

awk -v seed="$seed" 'BEGIN { srand(seed); split("one two three four five six red blue cat dog house tree", w, " ")
    for (i = 0; i < 4000; i++) { for (j = 0; j < 9; j++) printf "%s ", w[1 + int(12 * rand())]; print "." } }' >text.txt
(echo text,label; awk 'BEGIN { for (i = 0; i < 40; i++) print "a cat " i ",x\na house " i ",y" }') >rows.csv
tiny="--layers 2 --heads 2 --width 32 --context 32 --batch 2 --tokenizer bytes --data text.txt --device ${DEVICE:-cpu} -q"
train="$wgpt train $tiny --steps ${STEPS:-400} --eval-every 50 --eval-batches 2 --save-every 10"
$train --out whole
$wgpt train $tiny --steps 1 --out other --seed 2 --eval-every 0
tune="$wgpt finetune -q --model whole --task classify --data rows.csv --val rows.csv --epochs 6 --batch 4 --max-length 16 --device ${DEVICE:-cpu}"
$tune --out tuned
done_kills=0 total=0
echo "kills seed $seed"

# Runs: killed until they are through. Each start goes on from the last checkpoint, or begins where there is none.
for kind in train tune; do
    done_kills=0 ended=0
    while [ "$ended" = 0 ]; do
        if [ "$done_kills" -ge $((kills * 3 / 10)) ]; then most=100000; else most=${MOST:-2}; fi
        if [ "$kind" = train ]; then
            set -- $train --out run
            resume="$wgpt train --out run --resume -q --device ${DEVICE:-cpu}"
        else
            set -- $tune --out run
            resume="$wgpt finetune --out run --resume -q --device ${DEVICE:-cpu}"
        fi
        if ls run/checkpoints 2>/dev/null | grep -q '^step-[0-9]*$'; then set -- $resume; else set -- "$@" --overwrite; fi
        if [ "$most" = 100000 ]; then "$@" >>log 2>&1 && code=0 || code=$?; else killed "$most" "$@"; fi
        [ "$code" = 0 ] && ended=1
        [ "$code" = 0 ] || [ "$code" = 137 ] || fail "$kind: exit code $code: $(tail -1 log)"
    done
    whole=whole && [ "$kind" = tune ] && whole=tuned
    cmp run/model.safetensors "$whole/model.safetensors" || fail "$kind: other bits than without kills"
    echo "$kind: $done_kills kills, the same bits as without"
    total=$((total + done_kills)) && rm -rf run
done

# Folders that are replaced: old or new, whole.
replace() {
    name=$1 most=$2 && shift 2
    rm -rf out && cp -r old out
    old=$(sum old) new=$(sum new)
    [ "$old" != "$new" ] || fail "$name: the two folders are the same"
    done_kills=0 was_old=0 was_new=0 tries=0
    while [ "$done_kills" -lt $((kills / 10)) ] && [ "$tries" -lt $((kills * 10)) ]; do
        tries=$((tries + 1))
        killed "$most" "$@"
        is=$(sum out)
        case $is in
            "$old") was_old=$((was_old + 1)) ;;
            "$new") was_new=$((was_new + 1)) && rm -rf out && cp -r old out ;;
            *) fail "$name: neither old nor new after a kill" ;;
        esac
    done
    "$@" >>log 2>&1 || fail "$name: does not work after kills: $(tail -1 log)"
    [ "$(sum out)" = "$new" ] || fail "$name: another result after kills"
    left=$(find . -maxdepth 1 -name '.wgpt-*' | wc -l)
    [ "$left" = 0 ] || fail "$name: $left hidden folders are left after a run that was not killed"
    echo "$name: $done_kills kills, $was_old times the old folder, $was_new times the new one"
    total=$((total + done_kills)) && rm -rf old new out
}
head -c 20000 text.txt >short.txt
prepare="$wgpt data prepare --data text.txt --tokenizer bytes --shard-tokens 3000 -q"
$wgpt data prepare --data short.txt --tokenizer bytes -q --out old && $prepare --out new
replace "data prepare" "${MOST_WRITE:-0.6}" $prepare --out out --overwrite
$wgpt export --model other --out old -q && $wgpt export --model whole --out new -q
replace export "${MOST_WRITE:-0.3}" $wgpt export --model whole --out out --overwrite -q
learn="$wgpt tokenizer train --data text.txt --vocab 300 -q"
$wgpt tokenizer train --data short.txt --vocab 280 -q --out old && $learn --out new
replace "tokenizer train" "${MOST_WRITE:-0.4}" $learn --out out --overwrite

# A run that is replaced: the old one resumes until the new one has its first checkpoint.
rm -rf run && cp -r other run
old=$(sum run/checkpoints) done_kills=0 was_old=0 was_new=0
while [ "$done_kills" -lt $((kills / 10)) ]; do
    killed "${MOST:-2}" $train --out run --overwrite
    if [ "$(sum run/checkpoints)" = "$old" ]; then was_old=$((was_old + 1)); else was_new=$((was_new + 1)); fi
    $wgpt train --out run --resume --steps 1 -q --device "${DEVICE:-cpu}" >>log 2>&1 || {
        grep -q "is at step" log || $wgpt eval --model run --data short.txt -q --device "${DEVICE:-cpu}" >>log 2>&1 || fail "train --overwrite: neither run goes on: $(tail -1 log)"
    }
    rm -rf run && cp -r other run
done
echo "train --overwrite: $done_kills kills, $was_old times the old run, $was_new times the new one"
total=$((total + done_kills))
echo "$total kills: nothing lost, no panic"

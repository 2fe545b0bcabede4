#!/usr/bin/env bash
# Three stages in a row: SFT, a reward model, and PPO with that model as reward and as the critic's start.
#
#   launchers/pipeline.sh [FOLDER] [OPTIONS OF ALL STAGES ...]
#
# With the defaults: model=tiny on its built-in data. See docs/tutorial.md.
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$home/outputs/pipeline/$(date +%Y-%m-%d_%H-%M-%S)}
shift $(($# > 0))

run() {
    printf '\n\033[1m[%s]\033[0m %s\n' "$1" "${*:2}"
    "$home/launchers/local.sh" "hydra.run.dir=$folder/$1" "${@:2}"
}

# A short lesson: what a response looks like, not yet which letter to write.
run sft algo=sft steps=8 "$@"
run rm algo=rm steps=20 model.path="$folder/sft/model" "$@"
run ppo algo=ppo steps=40 model.path="$folder/sft/model" \
    reward=model reward.path="$folder/rm/model" critic.path="$folder/rm/model" "$@"

"$home/.venv/bin/python" - "$folder/ppo/metrics.jsonl" <<'PYTHON'
import json
import sys

rows = [json.loads(line) for line in open(sys.argv[1])]
rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
first, last = (sum(part) / len(part) for part in (rewards[:5], rewards[-5:]))
print(f"\nPPO: mean reward {first:.2f} in its first five steps, {last:.2f} in its last five")
sys.exit(0 if last > first else "the reward did not rise")
PYTHON

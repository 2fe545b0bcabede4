#!/usr/bin/env bash
# Run on this machine: launchers/local.sh algo=grpo cluster=cpu
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)

[ -x "$home/.venv/bin/python" ] || "$home/launchers/setup.sh"
PATH="$home/.venv/bin:$PATH"
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
exec python -m rlhf_hydra "$@"

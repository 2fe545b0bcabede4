#!/usr/bin/env bash
# A Ray cluster over several machines, and a run on it.
#
#   launchers/ray_cluster.sh head [IP]                  first machine; IP is its own address, as the others reach it
#   launchers/ray_cluster.sh worker HEAD:PORT           each further machine
#   launchers/ray_cluster.sh job HEAD:PORT [OPTION...]  the run, from any of them
#
# Head and worker stay in the foreground; Ctrl-C ends them. All machines need the same token: RAY_AUTH_TOKEN, or the
# file ~/.ray/auth_token, which `head` makes if there is none. Ray listens on every interface and refuses who has no
# token; its dashboard stays on loopback.
#
#   RAY_PORT=6379   port of the head      RAY_TEMP=/tmp/rlhf_hydra_ray_$USER   where Ray keeps logs and sockets
set -euo pipefail
home=$(cd "$(dirname "$0")/.." && pwd)

PATH="$home/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
temp=${RAY_TEMP:-/tmp/rlhf_hydra_ray_$(id -un)}

usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }

# Machines start in any order; the head may come up last.
wait_for() {
    local host=${1%:*} port=${1##*:} tries=${RAY_WAIT_S:-120}
    [ "$host" != "$port" ] || usage
    until (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ]; then
            echo "no Ray head answers at $1; is 'launchers/ray_cluster.sh head $host' running there?" >&2
            exit 1
        fi
        sleep 1
    done
}

case ${1:-} in
    head)
        [ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || ray get-auth-token --generate >/dev/null
        exec ray start --head --block --disable-usage-stats --temp-dir "$temp" --dashboard-host 127.0.0.1 \
            --port "${RAY_PORT:-6379}" ${2:+--node-ip-address "$2"}
        ;;
    worker)
        wait_for "${2:-}"
        exec ray start --block --disable-usage-stats --temp-dir "$temp" --address "$2"
        ;;
    job)
        wait_for "${2:-}"
        export RAY_ADDRESS=$2
        shift 2
        exec python -m rlhf_hydra "$@"
        ;;
    *) usage ;;
esac

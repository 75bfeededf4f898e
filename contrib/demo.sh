#!/bin/sh
# Shows a Runtime: creates a Worker, runs a command, watches it, restarts the daemon, and checks that nothing is lost.
# Everything happens in a scratch folder that is removed at the end. It needs runtimed and runtimectl on the PATH.
set -eu

scratch=$(mktemp -d)
XDG_RUNTIME_DIR=$scratch/run
XDG_CONFIG_HOME=$scratch/config
export XDG_RUNTIME_DIR XDG_CONFIG_HOME
unset RUNTIMECTL_URL RUNTIMECTL_TOKEN RUNTIMECTL_TOKEN_FILE RUNTIMECTL_CONTEXT
mkdir -m 700 "$XDG_RUNTIME_DIR"
daemon=

cleanup() {
    [ -z "$daemon" ] || stop_daemon
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n# %s\n' "$*"; }

show() {
    printf '$'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:=@-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$@"
}

start_daemon() {
    printf '$ runtimed --store fs:SCRATCH --listen 127.0.0.1:0\n'
    : >"$scratch/ready"
    runtimed --store "fs:$scratch/store" --listen 127.0.0.1:0 --log-level warning >"$scratch/ready" &
    daemon=$!
    tries=0
    until [ -s "$scratch/ready" ]; do
        kill -0 "$daemon" 2>/dev/null || { echo "the daemon did not start" >&2; exit 1; }
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "the daemon is not ready after 30 seconds" >&2; exit 1; }
        sleep 0.1
    done
    cat "$scratch/ready"
}

stop_daemon() {
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
    daemon=
}

say "Start a Runtime that keeps everything in a folder."
start_daemon

say "Create a Worker: a shell. It asks for the capability that its profile needs."
printf '$ runtimectl workers create --profile builtin:shell --capability shell -o name\n'
worker=$(runtimectl workers create --profile builtin:shell --capability shell -o name)
echo "$worker"
show runtimectl workers list

say "Send it a command, and watch it from the start until its run ends."
show runtimectl workers input "$worker" 'echo "hello from $(uname -s)"; cd /tmp; seq 3'
show runtimectl events tail "$worker" --from-start --until run_end

say "The transcript has the input and the output."
show runtimectl transcript "$worker"

runtimectl events tail "$worker" --from-start --no-follow -o jsonl >"$scratch/before"

say "Kill the daemon without warning, and start it again on the same folder."
printf '$ kill -9 %s\n' "$daemon"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
start_daemon

say "The Runtime, its Worker and its transcript are still there. Only the shell process is gone."
show runtimectl status
show runtimectl workers list

say "Every event is still there too, with the same cursor."
runtimectl events tail "$worker" --from-start --no-follow -o jsonl >"$scratch/after"
cmp "$scratch/before" "$scratch/after"
printf 'before the restart: %s events\nafter the restart:  %s events, byte for byte the same\n' \
    "$(grep -c . "$scratch/before")" "$(grep -c . "$scratch/after")"

say "An observer that has seen the first three events resumes at its cursor, with the fourth."
cursor=$(sed -n 4p "$scratch/after" | sed 's/.*"cursor": *"\([^"]*\)".*/\1/')
show runtimectl events tail "$worker" --cursor "$cursor" --no-follow

say "Done. The scratch folder is removed."

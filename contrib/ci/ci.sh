#!/bin/sh
# A job for any CI system: it runs the script run-tests of the current folder in a Worker.
# The exit code is that of the script. Keep the folder run as an artifact, whatever the exit code is.
set -eu

mkdir -p run
exec runtimed exec -- runtimectl run -C . --timeout 1500 \
    --transcript run/transcript.txt --events run/events.jsonl --result run/result.json \
    -- ./run-tests

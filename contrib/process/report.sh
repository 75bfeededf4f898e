#!/bin/sh
# A Worker that reports on the machine: a program for the backend `process`, in plain shell.
#
# Whatever its input is, it prints the load, the memory, the disk, and how often it was asked. A profile for it, in
# the configuration of runtimed:
#
#     [profiles."builtin:report"]
#     backend = "process"
#     command = ["/path/to/contrib/process/report.sh"]
#
# A line that is not a JSON object is text, so a script can simply print most of its output. Only the end of the run
# must be JSON. Interrupts need no handling here because a run is short. A stop ends the input, and so the loop.
set -u

asked=0

report() {
    echo "load: $(cut -d ' ' -f 1-3 /proc/loadavg)"
    grep -E '^(MemTotal|MemAvailable)' /proc/meminfo
    df -P . | tail -n 1
    echo "asked: $asked"
}

while IFS= read -r line; do
    case $line in
    '{"type":"input",'*)
        asked=$((asked + 1))
        report
        echo '{"event":"run_end","data":{"result":"finished"}}'
        ;;
    '{"type":"stop"}')
        break
        ;;
    esac
done

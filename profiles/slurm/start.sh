#!/bin/bash
# A Slurm of one node on this machine, to try the pipeline on: munged, slurmctld and slurmd, all files in one folder.
# usage: start.sh [FOLDER] [stop]     FOLDER (default .slurm) keeps configuration, state, logs and process numbers.
# Needs root and Debian's packages slurm-wlm and munge. Prints the line that points Slurm's commands at it.
set -euo pipefail

folder=$(mkdir -p "${1:-.slurm}" && cd "${1:-.slurm}" && pwd)
host=$(hostname -s)
socket=$folder/munge/munge.socket

stop() {
    for name in slurmd slurmctld munged; do
        local file=$folder/$name.pid
        [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
        rm -f "$file"
    done
    [ "$(readlink /etc/slurm/slurm.conf || true)" != "$folder/slurm.conf" ] || rm /etc/slurm/slurm.conf
}

configure() {
    mkdir -p "$folder"/{munge,state,spool}
    chmod 700 "$folder/munge"
    [ -s "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    chmod 711 "$folder/munge"
    cat >"$folder/slurm.conf" <<EOF
ClusterName=one
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPort=$((16817 + RANDOM % 1000))
SlurmdPort=$((18817 + RANDOM % 1000))
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.log
MinJobAge=3600
NodeName=$host CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
}

[ "$(id -u)" = 0 ] || { echo "start.sh: needs root, for slurmd starts jobs" >&2; exit 1; }
for program in munged slurmctld slurmd; do
    command -v "$program" >/dev/null || { echo "start.sh: $program is missing: apt-get install slurm-wlm munge" >&2; exit 1; }
done
stop
[ "${2:-}" = stop ] && exit 0
configure
# Jobs lose SLURM_CONF on their way, so the configuration also stands where Slurm looks for it.
mkdir -p /etc/slurm
[ -e /etc/slurm/slurm.conf ] || ln -sf "$folder/slurm.conf" /etc/slurm/slurm.conf
munged --force --socket="$socket" --key-file="$folder/munge/key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
export SLURM_CONF=$folder/slurm.conf
slurmctld -c
slurmd
for _ in $(seq 60); do
    sinfo -h -o %t 2>/dev/null | grep -q idle && { echo "export SLURM_CONF=$SLURM_CONF"; exit 0; }
    sleep 0.5
done
echo "start.sh: the node does not become idle; see $folder/slurmctld.log and $folder/slurmd.log" >&2
exit 1

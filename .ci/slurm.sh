#!/usr/bin/env bash
# One-node Slurm on loopback: no systemd, no cgroups, no slurmdbd. Idempotent. Run as root.
#   .ci/slurm.sh [up|down|status]     (default: up)
set -euo pipefail
CMD=${1:-up}
NODE=aqnode                        # node name of our own, NodeAddr 127.0.0.1 (slurmd -N)
CTL=$(hostname -s)                 # SlurmctldHost must be this host's short name or slurmctld exits
CONF=/etc/slurm/slurm.conf
SPOOL=/var/spool/aqslurm
LOG=/var/log/slurm
RUN=/run/aqslurm
CPUS=${AQ_SLURM_CPUS:-2}           # may be larger than nproc only with config_overrides (below)
MEM=${AQ_SLURM_MEM_MB:-$(( $(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 - 2048 ))}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

down() {
  for p in slurmd slurmctld munged; do
    if alive "$RUN/$p.pid"; then kill "$(cat "$RUN/$p.pid")" 2>/dev/null || true; fi
  done
  for _ in $(seq 50); do
    n=0; for p in slurmd slurmctld munged; do alive "$RUN/$p.pid" && n=1; done
    [ $n = 0 ] && break; sleep 0.1
  done
  rm -f "$RUN"/*.pid
}

if [ "$CMD" = down ]; then down; exit 0; fi
if [ "$CMD" = status ]; then sinfo -N -l; squeue; exit 0; fi

# 1. packages -----------------------------------------------------------------
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

# 2. directories, config ----------------------------------------------------------
mkdir -p "$SPOOL/ctld" "$SPOOL/d" "$LOG" "$RUN" /run/munge /var/lib/munge /var/log/munge
chown -R munge:munge /run/munge /var/lib/munge /var/log/munge /etc/munge
chmod 0755 /run/munge; chmod 0711 /var/lib/munge; chmod 0700 /var/log/munge /etc/munge
chown munge:munge "$RUN"; chmod 0755 "$RUN"
[ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; chown munge:munge /etc/munge/munge.key; chmod 0400 /etc/munge/munge.key; }

NEW=$(cat <<EOF
ClusterName=aq
SlurmctldHost=${CTL}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=6817
SlurmdPort=6818
SlurmctldPidFile=${RUN}/slurmctld.pid
SlurmdPidFile=${RUN}/slurmd.pid
SlurmctldLogFile=${LOG}/slurmctld.log
SlurmdLogFile=${LOG}/slurmd.log
StateSaveLocation=${SPOOL}/ctld
SlurmdSpoolDir=${SPOOL}/d
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=${LOG}/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2048
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,default_queue_depth=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
MinJobAge=600
KillWait=5
CompleteWait=0
InactiveLimit=0
Waittime=0
SlurmctldTimeout=30
SlurmdTimeout=60
BatchStartTimeout=10
MessageTimeout=10
SlurmdParameters=config_overrides
NodeName=${NODE} NodeHostname=${NODE} NodeAddr=127.0.0.1 CPUs=${CPUS} Boards=1 SocketsPerBoard=1 CoresPerSocket=${CPUS} ThreadsPerCore=1 RealMemory=${MEM} State=UNKNOWN
PartitionName=debug Nodes=${NODE} Default=YES MaxTime=INFINITE DefaultTime=00:30:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=${NODE} Default=NO MaxTime=INFINITE PriorityTier=10 PreemptMode=off State=UP
EOF
)
mkdir -p /etc/slurm
if [ "$(cat $CONF 2>/dev/null || true)" != "$NEW" ]; then
  down
  printf '%s\n' "$NEW" > $CONF
  rm -rf "${SPOOL:?}/ctld/"* "${SPOOL:?}/d/"*
fi

# 3. daemons ---------------------------------------------------------------------
alive $RUN/munged.pid    || { rm -f /run/munge/munge.socket.2*; chown root /run/aqslurm; chmod 0755 /run/aqslurm
                              runuser -u munge -- munged --pid-file=/run/munge/munged.pid; ln -sf /run/munge/munged.pid $RUN/munged.pid; }
munge -n | unmunge >/dev/null
alive $RUN/slurmctld.pid || slurmctld
alive $RUN/slurmd.pid    || slurmd -N $NODE
for _ in $(seq 60); do
  alive $RUN/slurmctld.pid || { echo "slurmctld died:"; tail -5 $LOG/slurmctld.log; exit 1; }
  if timeout 3 sinfo -h -o %t 2>/dev/null | grep -qE '^(idle|mix|alloc)'; then break; fi
  sleep 0.1
done
scontrol update NodeName=$NODE State=RESUME 2>/dev/null || true
sinfo -h -o '%P %t %c %m'

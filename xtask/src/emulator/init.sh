#!/bin/busybox sh
# Init of the emulated machine: sets up what a distribution would, runs the suites, switches off.
# What it says to the one who watches begins with "sampan-guest: ".

B=/bin/busybox

if [ "$1" != again ]; then
  # The root of an initial file system cannot be pivoted away from, as containers do: the same files get a mount of their own.
  $B mkdir -p /host
  $B mount -t proc proc /proc
  $B mount --bind / /host
  $B mount --move /proc /host/proc
  cd /host || exit 1
  $B mount --move . /
  exec $B chroot . /init again
fi

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux RUST_BACKTRACE=1
# There are no sources to keep failures beside, and emulation is slow.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true PROPTEST_CASES=32
$B --install -s /bin
cd /
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o mode=755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=755 run /run
# Not over /tmp: the programs lie where they were built, which may be there.
mkdir -p /scratch
mount -t tmpfs -o mode=1777,size=85% tmp /scratch
export TMPDIR=/scratch
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/mounts /etc/mtab
# As systemd leaves them: mounts are shared, and no process is in the cgroup at the top.
mount --make-rshared /
mkdir /sys/fs/cgroup/init.scope
echo $$ > /sys/fs/cgroup/init.scope/cgroup.procs
hostname guest
# Daemons of all tests share the drivers' machine code, which an emulated machine takes minutes to make.
mkdir -p /var/cache/drivers
chmod 700 /var/cache/drivers
export SAMPAN_DRIVER_CACHE=/var/cache/drivers
ip link set lo up
while read -r module; do
  insmod "$module" || echo "$module cannot be loaded"
done < /modules/order
ulimit -n 65536
. /settings
echo "sampan-guest: up Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"

# Whether every driver that ships has its machine code, which is named by the driver's content.
compiled() {
  for driver in "$SAMPAN_TEST_BIN"/drivers/*.wasm; do
    digest=$(sha256sum < "$driver")
    ls /var/cache/drivers/"${digest%% *}"-*.cwasm > /dev/null 2>&1 || return 1
  done
}

# A daemon of its own makes it; what it made goes to the disk, and is in the next machine from its start.
if [ -x "$SAMPAN_TEST_BIN/sampan" ]; then
  ls /var/cache/drivers > /scratch/before
  SAMPAN_LOG=warn "$SAMPAN_TEST_BIN/sampan" daemon --root /scratch/warm/root --run /scratch/warm/run &
  daemon=$!
  until compiled || ! kill -0 $daemon 2> /dev/null; do sleep 0.5; done
  kill $daemon
  wait $daemon
  ls /var/cache/drivers > /scratch/after
  echo "sampan-guest: the drivers are compiled"
  if ! cmp -s /scratch/before /scratch/after; then
    tar -C /var/cache/drivers -cf /dev/vda . && sync && echo "sampan-guest: saved"
  fi
  rm -rf /scratch/warm /scratch/before /scratch/after
fi

# What hangs, for the one who reads: processes, where they wait, and what the daemons logged.
tell() {
  for process in /proc/[0-9]*; do
    [ -s $process/cmdline ] || continue
    echo "${process#/proc/} $(tr '\0' ' ' < $process/cmdline | cut -c 1-150): $(cat $process/task/*/wchan | sed 's/$/ /')"
  done
  tail -n 20 /scratch/sampan-*/daemon.log
}

while read -r name folder program; do
  echo "sampan-guest: suite $name starts"
  cd "$folder" || cd /
  CARGO_MANIFEST_DIR="$folder" "$program" --test-threads=2 --show-output $WORDS < /dev/null 2>&1 &
  suite=$!
  for second in $(seq "$PATIENCE"); do
    kill -0 $suite 2> /dev/null || break
    sleep 1
  done
  if kill -0 $suite 2> /dev/null; then
    echo "sampan-guest: suite $name hangs"
    tell
    kill -9 $suite
  fi
  wait $suite
  echo "sampan-guest: suite $name ended $?"
done < /suites
echo "sampan-guest: end"
poweroff -f

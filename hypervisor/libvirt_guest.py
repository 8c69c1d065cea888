"""The programs that nfio's images hold beside the function: a machine's small init.

Only names and texts of nfio's own are in them; what a user says comes in files.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hypervisor.hypervisor_base import CONFIG_DIR
from hypervisor.libvirt_xml import AGENT_PORT, CONSOLE_PORT

DIRECTORY = "/usr/lib/nfio/machine"
INIT = f"{DIRECTORY}/init"
COMMAND = f"{DIRECTORY}/command"
CONFIGURE = f"{DIRECTORY}/configure"

#: What the init says on the serial line: the function is started; it ended, and how.
STARTED_WORD = "nfio: started"
EXIT_WORD = "nfio: exit"

#: Modules without which the init finds no disk.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_MODULES = "virtio_net virtio_console button evdev"
_LATER_MODULES = "virtio_balloon virtio_rng pvpanic pvpanic_mmio"

#: First program of the initrd. Debian's kernel has its disk drivers as modules.
INITRD_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec < /dev/null > /dev/ttyS0 2>&1
for module in MODULES; do
    /bin/busybox insmod "/$module" || echo "nfio: the module $module is not taken"
done
tries=0
until /bin/busybox mount -t ext4 /dev/vda2 /root 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo 'nfio: no root file system on /dev/vda2'; /bin/busybox poweroff -f; }
    /bin/busybox usleep 50000
done
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root INIT
"""

_INIT = f"""\
#!/bin/sh
# The machine's first program: brings it up, runs the function, and powers off when that ends.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
exec < /dev/null > /dev/ttyS0 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /run/nfio {CONFIG_DIR}
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev,ro config {CONFIG_DIR}
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
rm -f /run/nfio/*
modprobe -a {_MODULES}

port() {{
    tries=0
    while [ $tries -lt 100 ]; do
        for place in /sys/class/virtio-ports/*; do
            if read -r name < "$place/name" 2> /dev/null && [ "$name" = "$1" ]; then
                port=/dev/${{place##*/}}
                return 0
            fi
        done
        tries=$((tries + 1))
        usleep 20000
    done
    echo "nfio: there is no port $1"
    return 1
}}

ip link set lo up
for link in /sys/class/net/e*; do
    [ -e "$link" ] && udhcpc -i "${{link##*/}}" -s {DIRECTORY}/dhcp -f -t 6 -T 1 -A 1 > /dev/null 2>&1 &
done
port {AGENT_PORT} && qemu-ga -m virtio-serial -p "$port" -t /run/nfio > /run/nfio/agent.log 2>&1 &
acpid > /dev/null 2>&1 &
[ -b /dev/vdb ] && {CONFIGURE} < /dev/vdb
if [ -s /run/nfio/machine/hostname ]; then
    hostname -F /run/nfio/machine/hostname
fi
if [ -s /run/nfio/machine/sysctls ]; then
    sysctl -q -p /run/nfio/machine/sysctls
fi
# An address is waited for as long as DHCP takes, and a little longer where nobody gives one.
tries=0
while ! [ -e /run/nfio/address ] && [ $tries -lt 150 ]; do
    tries=$((tries + 1))
    usleep 20000
done
modprobe -a {_LATER_MODULES} 2> /dev/null &

# A named pipe and not the port itself: the function may open its output again, as any user.
mkfifo -m 666 /run/nfio/console
if port {CONSOLE_PORT}; then
    cat < /run/nfio/console > "$port" &
else
    cat < /run/nfio/console &
fi
copier=$!
exec 3> /run/nfio/console
echo '{STARTED_WORD}'
user=
[ -s /run/nfio/machine/user ] && read -r user < /run/nfio/machine/user
if [ -n "$user" ]; then
    start-stop-daemon -S -n nfio-function -c "$user" -a {COMMAND} >&3 2>&1 3>&- &
else
    {COMMAND} >&3 2>&1 3>&- &
fi
function=$!
echo $function > /run/nfio/pid
[ -e /run/nfio/ending ] && kill -TERM $function
while :; do
    wait $function
    code=$?
    kill -0 $function 2> /dev/null || break
done
exec 3>&-
why=
[ $code = 137 ] && ! grep -q '^oom_kill 0$' /proc/vmstat && why=' oom'
echo '{EXIT_WORD}' $code$why
# The command that ended the function may be one whose result is still to be fetched.
[ -e /run/nfio/ending ] || usleep 500000
# Whoever is left could still write: only the copier ends by itself, with what is in the pipe.
for process in /proc/[0-9]*; do
    process=${{process##*/}}
    [ $process = 1 ] || [ $process = $copier ] || kill -9 $process 2> /dev/null
done
tries=0
while kill -0 $copier 2> /dev/null && [ $tries -lt 25 ]; do
    tries=$((tries + 1))
    usleep 20000
done
mount -o remount,ro / || sync
poweroff -f
"""

# Tar on stdin. Each file is replaced at once, those that are not in it are removed.
_CONFIGURE = f"""\
#!/bin/sh
# Reads a tar file: config/ becomes {CONFIG_DIR}, machine/ what the init needs.
set -e
mount -o remount,rw {CONFIG_DIR}
trap 'mount -o remount,ro {CONFIG_DIR}' EXIT
draft={CONFIG_DIR}/.draft
rm -rf "$draft"
mkdir "$draft"
tar -x -f - -C "$draft"
mkdir -p /run/nfio/machine "$draft/config" "$draft/machine"
for file in "$draft"/machine/*; do
    [ ! -e "$file" ] || mv -f "$file" /run/nfio/machine/
done
for file in {CONFIG_DIR}/* {CONFIG_DIR}/.[!.]*; do
    name=${{file##*/}}
    [ "$name" = .draft ] || [ ! -e "$file" ] || [ -e "$draft/config/$name" ] || rm -rf "$file"
done
for file in "$draft"/config/* "$draft"/config/.[!.]*; do
    [ ! -e "$file" ] || mv -f "$file" {CONFIG_DIR}/
done
rm -rf "$draft"
"""

_DHCP = """\
#!/bin/sh
# What udhcpc calls: $1 is what happened.
case "$1" in
    deconfig)
        rm -f "/run/nfio/address.$interface"
        ip addr flush dev "$interface"
        ip link set "$interface" up
        ;;
    bound | renew)
        [ "$(cat /run/nfio/address.$interface 2> /dev/null)" = "$ip" ] && exit 0
        ip addr flush dev "$interface"
        ip addr add "$ip/$mask" dev "$interface"
        for gateway in $router; do
            ip route add default via "$gateway" dev "$interface" && break
        done
        for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
        echo "$ip" > "/run/nfio/address.$interface"
        : > /run/nfio/address
        ;;
esac
"""

# The machine's power button: the function is asked to end, as `docker stop` asks it.
_POWER = """\
#!/bin/sh
: > /run/nfio/ending
read -r function < /run/nfio/pid && kill -TERM "$function"
"""


def programs(command: Sequence[str]) -> dict[str, str]:
    """Files of an image, by path: those that bring the machine up, and what it is to run."""
    return {
        INIT: _INIT,
        CONFIGURE: _CONFIGURE,
        f"{DIRECTORY}/dhcp": _DHCP,
        "/etc/acpi/PWRF/00000080": _POWER,
        COMMAND: f"#!/bin/sh\nexec {shlex.join(command)}\n",
    }


def initrd_init(modules: Sequence[str]) -> str:
    """First program of the initrd, which loads modules (file names) in their order."""
    return INITRD_INIT.replace("MODULES", shlex.join(modules)).replace("INIT", INIT)

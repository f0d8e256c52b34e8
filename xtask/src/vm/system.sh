#!/bin/busybox sh
# The first process: from the kernel's first file system to a system with systemd, which runs the test and nothing else.
/bin/busybox --install -s /bin
mkdir -p /dev /proc /new
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in $(cat /modules/order); do
    insmod /modules/$module.ko || echo "insmod $module failed"
done
# systemd makes namespaces of mounts, which the first file system does not allow.
mount -t tmpfs -o size=3g tmpfs /new
cp -a /system/. /new/
cd /new
mkdir -p dev proc sys run root tmp var/log var/lib/systemd etc/default etc/systemd/system
mkdir -p var/lib/dpkg/info var/lib/dpkg/updates var/lib/dpkg/triggers
: > var/lib/dpkg/status
: > etc/fstab
echo n1 > etc/hostname
echo 0123456789abcdef0123456789abcdef > etc/machine-id
echo root:x:0:0:root:/root:/bin/sh > etc/passwd
printf 'root:x:0:\nsystemd-journal:x:999:\n' > etc/group
cat > etc/systemd/system/test.service <<X
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/package.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
X
cat > etc/systemd/system/test.target <<X
[Unit]
Requires=basic.target test.service
After=basic.target
AllowIsolate=yes
X
ln -sf test.target etc/systemd/system/default.target
for unit in networkd resolved timesyncd logind firstboot pstore random-seed update-utmp; do
    ln -sf /dev/null etc/systemd/system/systemd-$unit.service
done
umount /proc
exec switch_root /new /lib/systemd/systemd

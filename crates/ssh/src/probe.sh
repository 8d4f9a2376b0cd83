# Says what the node is and where the agent is or could go. Run as `sh -s -- DIRECTORY SHA256 SHARED`, with the script
# on standard input; DIRECTORY (slave_command_path, or empty) is encoded for `printf %b`; SHARED is not empty when
# another user will run the agent. POSIX sh, nothing else.
# Nothing that lies on the node is run, except files that hold exactly our executable.
LC_ALL=C; export LC_ALL
umask 077
given=$(printf %b "$1")
sha256=$2
shared=$3
[ -n "$shared" ] && umask 022

echo
say() { printf 'CASSY-PROBE-1 %s\n' "$1"; }

digest() {
  { sha256sum <"$1" || openssl dgst -sha256 <"$1"; } 2>/dev/null | sed -n 's/.*\([0-9a-f]\{64\}\).*/\1/p'
}

# A directory of ours that nobody else can write to.
private() {
  [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] || return 1
  case $(ls -ld "$1") in d????-??-*) return 0 ;; esac
  return 1
}

# Does the file hold our executable, and can it be started here?
ours() {
  [ -f "$1" ] && [ -x "$1" ] && [ "$(digest "$1")" = "$sha256" ] || return 1
  "$1" --version </dev/null >/dev/null 2>&1
  [ $? -ne 126 ] && return 0
  return 1
}

# Can every user get to the directory?
reached() {
  [ -n "$shared" ] || return 0
  place=$1
  while :; do
    case $(ls -ld "$place/.") in d????????[xt]*) ;; *) return 1 ;; esac
    [ -n "$place" ] || return 0
    place=${place%/*}
  done
}

# Opens a directory of ours, and what else is named, to the user who will run the agent.
share() {
  [ -n "$shared" ] || return 0
  chmod go+rx "$@" 2>/dev/null && reached "$1"
}

# Can every user run the file, which is not ours to change?
runs_for_all() {
  [ -n "$shared" ] || return 0
  case $(ls -ldL "$1") in -??????r?x*) reached "${1%/*}" ;; *) return 1 ;; esac
}

found() { say "found $1"; say end; exit 0; }

# Can the directory take a file and run it? Sets $wrong when not.
prepare() {
  if [ ! -d "$1" ] && ! mkdir -p "$1" 2>/dev/null; then wrong='cannot be created'; return 1; fi
  [ -L "$1" ] && { wrong='is a symbolic link'; return 1; }
  [ -O "$1" ] || { wrong='belongs to another user'; return 1; }
  private "$1" || { wrong='can be written by other users'; return 1; }
  share "$1" || { wrong='cannot be reached by other users (ssh_command_prefix is set)'; return 1; }
  try=$1/.cassy-try.$$
  rm -f "$try"
  { printf '#!/bin/sh\nexit 0\n' >"$try"; } 2>/dev/null || { rm -f "$try"; wrong='cannot be written to'; return 1; }
  chmod 0700 "$try"
  if "$try" </dev/null >/dev/null 2>&1; then rm -f "$try"; return 0; fi
  rm -f "$try"
  wrong='does not let files be executed (noexec?)'
  return 1
}

say "system $(uname -s)"
say "machine $(uname -m)"

cache=${XDG_CACHE_HOME:-}
case $cache in /*) ;; *) cache= ;; esac
if [ -z "$cache" ] && [ -n "${HOME:-}" ] && [ -d "$HOME" ]; then cache=$HOME/.cache; fi
user=$(id -u)

[ -n "$given" ] && ours "$given/cassy" && runs_for_all "$given/cassy" && found "$given/cassy"
for directory in "$given" "${cache:+$cache/cassy}" "/var/tmp/cassy-$user" "/tmp/cassy-$user"; do
  [ -n "$directory" ] || continue
  private "$directory" && [ ! -L "$directory/cassy-$sha256" ] && ours "$directory/cassy-$sha256" \
    && share "$directory" "$directory/cassy-$sha256" && found "$directory/cassy-$sha256"
done
for directory in "$given" "${cache:+$cache/cassy}" "/var/tmp/cassy-$user" "/tmp/cassy-$user"; do
  [ -n "$directory" ] || continue
  if prepare "$directory"; then say "use $directory"; say end; exit 0; fi
  say "skip $directory $wrong"
done
say end

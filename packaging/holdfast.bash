# SPDX-License-Identifier: Apache-2.0
#
# bash completion for holdfast. Pools and volumes are asked of the daemon; when it does not answer,
# there is nothing to complete.

_holdfast_names() {  # _holdfast_names pools|volumes|snapshots|trash
  local arguments=()
  [[ -n $runtime_dir ]] && arguments=(--runtime-dir "$runtime_dir")
  case $1 in
    pools)
      holdfast "${arguments[@]}" pool list 2>/dev/null | awk 'NR > 1 { print $1 }'
      ;;
    volumes)
      holdfast "${arguments[@]}" volume list 2>/dev/null | awk 'NR > 1 && $1 ~ "/" { print $1 }'
      ;;
    trash)
      holdfast "${arguments[@]}" trash list 2>/dev/null | awk 'NR > 1 { print $1 }'
      ;;
    snapshots)
      local volume
      for volume in $(_holdfast_names volumes); do
        holdfast "${arguments[@]}" snapshot list "$volume" 2>/dev/null |
          awk 'NR > 1 && $1 ~ "@" { print $1 }'
      done
      ;;
  esac
}

_holdfast() {
  local current previous words_before runtime_dir="" i
  COMPREPLY=()
  current=${COMP_WORDS[COMP_CWORD]}
  previous=${COMP_WORDS[COMP_CWORD - 1]}
  # The words of the command itself, without options and their values.
  words_before=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --runtime-dir)
        runtime_dir=${COMP_WORDS[++i]}
        ;;
      --size | --segment-size | --io-timeout | --watchdog | --wait | --qmp | --format | --since | --defer)
        ((i++))
        ;;
      -*) ;;
      *)
        words_before+=("${COMP_WORDS[i]}")
        ;;
    esac
  done

  case $previous in
    --runtime-dir)
      mapfile -t COMPREPLY < <(compgen -d -- "$current")
      return
      ;;
    --format)
      mapfile -t COMPREPLY < <(compgen -W "raw qcow2 vhd vmdk rbd-diff rbd" -- "$current")
      return
      ;;
    --qmp)
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
      ;;
    --size | --segment-size | --io-timeout | --watchdog | --wait | --defer)
      return
      ;;
  esac

  local command=${words_before[0]:-} verb=${words_before[1]:-} count=${#words_before[@]} candidates=""
  local options="--runtime-dir --json --help"
  case "$command/$verb" in
    pool/create) options+=" --shared --io-timeout --watchdog --segment-size" ;;
    volume/create) options+=" --size --thick" ;;
    volume/convert) options+=" --thick --thin" ;;
    volume/resize) options+=" --size --force" ;;
    volume/remove) options+=" --now --defer --with-snapshots" ;;
    trash/empty) options+=" --expired" ;;
    diff/*) options+=" --since" ;;
    import/*) options+=" --format --size" ;;
    export/*) options+=" --format --since" ;;
    flatten/*) options+=" --cancel" ;;
    attach/*) options+=" --nbd --vhost --read-only --shared --shared-writable --incoming --wait --qmp" ;;
    status/*) options+=" --watch" ;;
  esac
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    return
  fi
  if ((count == 0)); then
    candidates="pool volume trash snapshot clone flatten diff import export attach detach handover lease host status metrics completion --help --version"
  elif ((count == 1)); then
    case $command in
      pool) candidates="create open list show close" ;;
      volume) candidates="create list show resize set convert rename remove" ;;
      trash) candidates="list restore empty" ;;
      snapshot) candidates="create list remove rollback" ;;
      lease) candidates="list show break" ;;
      host) candidates="list" ;;
      clone) candidates=$(_holdfast_names snapshots) ;;
      flatten | handover) candidates=$(_holdfast_names volumes) ;;
      completion) candidates="bash" ;;
      import)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
      attach | detach | diff | export) candidates="$(_holdfast_names volumes) $(_holdfast_names snapshots)" ;;
    esac
  elif ((count == 2)); then
    case "$command/$verb" in
      import/*)
        candidates=$(_holdfast_names pools | sed 's|$|/|')
        compopt -o nospace
        ;;
      export/*)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
      pool/show | pool/close | volume/list | lease/list | host/list) candidates=$(_holdfast_names pools) ;;
      volume/create)
        candidates=$(_holdfast_names pools | sed 's|$|/|')
        compopt -o nospace
        ;;
      volume/show | volume/resize | volume/set | volume/convert | volume/rename | volume/remove | snapshot/list | lease/show | lease/break)
        candidates=$(_holdfast_names volumes)
        ;;
      snapshot/create)
        candidates=$(_holdfast_names volumes | sed 's|$|@|')
        compopt -o nospace
        ;;
      trash/list) candidates=$(_holdfast_names pools) ;;
      trash/restore) candidates=$(_holdfast_names trash) ;;
      trash/empty) candidates="$(_holdfast_names pools) $(_holdfast_names trash)" ;;
      snapshot/remove | snapshot/rollback) candidates=$(_holdfast_names snapshots) ;;
    esac
  elif ((count >= 3)); then
    case "$command/$verb" in
      volume/set)
        candidates="hold.pause_after= hold.fail_after="
        compopt -o nospace
        ;;
      pool/create | pool/open)
        candidates="dir: rados:"
        compopt -o nospace
        ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$current")
}

complete -F _holdfast holdfast

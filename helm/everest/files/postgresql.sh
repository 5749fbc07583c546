# Makes the databases the first time, whole or not at all, and runs the server.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  rm -rf "$PGDATA.new"
  initdb -D "$PGDATA.new" -U postgres -E UTF8 --locale=C.UTF-8 >/dev/null
  echo 'host all everest all scram-sha-256' > "$PGDATA.new/pg_hba.conf"
  {
    printf "create role everest login password '%s'\n" "$(printf %s "$PGPASSWORD" | sed "s/'/''/g")"
    for database in mlflow studies auth; do echo "create database $database owner everest"; done
  } | postgres --single -D "$PGDATA.new" postgres >/dev/null
  mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp

#!/usr/bin/env bash
# Dapr's state API with curl: save, get, delete; several writers and one value; who creates it.
# Start a cluster with `kvnode up`, then run this.
set -euo pipefail
state="${DAPR_HTTP_ENDPOINT:-http://127.0.0.1:3500}/v1.0/state/statestore"
writers=3 rounds=3

status() { curl --silent --output /dev/null --write-out '%{http_code}' "$@"; }

# Save, get and delete
curl --silent --fail "$state" --json '[{"key": "order-4", "value": {"item": "tea"}, "options": {"consistency": "strong"}}]'
echo "order-4 is $(curl --silent --fail "$state/order-4?consistency=strong")"
curl --silent --fail --request DELETE "$state/order-4?consistency=strong"
echo "after the delete the answer is $(status "$state/order-4?consistency=strong")" # 204: there is no such key

# Add one to a counter that others change too: write only over what was read, and read again if that is gone
add_one() {
    local answer count etag code
    while true; do
        answer="$(curl --silent --include "$state/tally?consistency=strong" | tr -d '\r')"
        etag="$(sed -n 's/^etag: //p' <<<"$answer")"
        count="$(tail -n 1 <<<"$answer")" # the body; of a key that is not there, nothing
        [ -n "$etag" ] || count=0
        code="$(status "$state" --json "[{\"key\": \"tally\", \"value\": $((count + 1)), \"etag\": \"$etag\",
            \"options\": {\"concurrency\": \"first-write\"}}]")" # an empty etag is none: first-write then creates
        case "$code" in
        204) return 0 ;;
        409) sleep "0.0$((RANDOM % 9))" ;; # somebody was faster
        *) echo "unexpected answer $code" >&2 && return 1 ;;
        esac
    done
}
curl --silent --fail --request DELETE "$state/tally?consistency=strong"
jobs=()
for ((writer = 0; writer < writers; writer++)); do
    (for ((round = 0; round < rounds; round++)); do add_one; done) &
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
tally="$(curl --silent --fail "$state/tally?consistency=strong")"
echo "$writers writers added $rounds each: tally is $tally"
[ "$tally" -eq $((writers * rounds)) ]

# Who creates it
curl --silent --fail --request DELETE "$state/keeper?consistency=strong"
create='[{"key": "keeper", "value": "ada", "options": {"concurrency": "first-write"}}]'
first="$(status "$state" --json "$create")" second="$(status "$state" --json "$create")"
echo "the first to create the key got $first and the second $second"
[ "$first $second" = "204 409" ]

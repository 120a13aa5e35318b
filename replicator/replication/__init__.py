"""The rules applied to a Harbor: to one push (`job`), to everything (`backfill`) and on a schedule (`reconciler`)."""

"""The rules applied to a Harbor: one push (`job`), everything (`backfill`), and on a schedule (`reconciler`)."""

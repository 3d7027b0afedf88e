# What differs from run to run, or from machine to machine.  For messages: the width of a table still tells
# how long a value was, so tests select whether a value is right and not the value.

# Where in the source a message comes from (psql's VERBOSITY verbose).
/^LOCATION:  /d
# Processes, and how old their transactions are.
s/\bprocess(es)? [0-9]+/process PID/g
s/\bfor [0-9]+ s\b/for N s/g
# WAL positions, system identifiers, times.
s/\b[0-9A-F]{1,8}\/[0-9A-F]{5,8}\b/LSN/g
s/\b[0-9]{15,20}\b/IDENTIFIER/g
s/\b[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}(\.[0-9]+)?([+-][0-9]{2})?/TIME/g

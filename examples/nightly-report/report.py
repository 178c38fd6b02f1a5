"""A job at a fixed time: reports on the day before."""

import datetime
import os

# A run by hand has no due time.
due = os.environ.get("GANTRY_SCHEDULED_AT")
moment = datetime.datetime.strptime(due, "%Y-%m-%d %H:%M:%S %z") if due else datetime.datetime.now()
day = (moment - datetime.timedelta(days=1)).date()
print(f"report of {day}, made by {os.environ['GANTRY_RELEASE']} as job {os.environ['TASK_ID']}")

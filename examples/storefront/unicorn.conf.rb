# Several workers behind one port; the master hands requests to whichever is free.
worker_processes 3
timeout 30
preload_app true
working_directory '/app'
check_client_connection false

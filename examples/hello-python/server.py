import http.server
import os


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        text = f"hello from python on {os.uname().nodename}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


# Connections that wait to be taken. Servers for production have hundreds; with the 5 of this one a burst is refused.
http.server.ThreadingHTTPServer.request_queue_size = 128
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Hello)
print("listening on port", server.server_port, flush=True)
server.serve_forever()

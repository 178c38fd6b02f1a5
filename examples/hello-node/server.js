const http = require('node:http');
const os = require('node:os');

const server = http.createServer((request, response) => {
  response.end(`hello from node on ${os.hostname()}\n`);
});

server.listen(process.env.PORT, '0.0.0.0', () => console.log(`listening on port ${process.env.PORT}`));
process.on('SIGTERM', () => server.close());

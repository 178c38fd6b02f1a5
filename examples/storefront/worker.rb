# Takes orders from the queue, one at a time, until it is asked to stop.
require 'json'
require 'redis'

$stdout.sync = true
stopping = false
trap('TERM') { stopping = true }

redis = Redis.new(url: ENV.fetch('REDIS_URL', 'redis://redis.gantry.internal:6379'))
puts "worker of #{ENV['GANTRY_RELEASE']} is ready"
until stopping
  begin
    _, order = redis.brpop('orders:waiting', timeout: 1)
    next unless order

    puts "order: #{JSON.parse(order)['product']}"
    redis.incr('orders:done')
  rescue Redis::BaseError => error
    warn "cannot reach Redis: #{error.message}"
    sleep 1
  end
end
puts 'worker stops'

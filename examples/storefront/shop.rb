# A small shop: products from a file of the image, orders in Redis, done by the worker.
require 'json'
require 'redis'
require 'sinatra/base'

class Shop < Sinatra::Base
  PRODUCTS = JSON.parse(File.read('/etc/storefront/products.json'))
  STYLESHEET = File.read('/app/public/assets/stylesheet').strip
  REVISION = File.read('/app/REVISION').strip[0, 10]
  HEADLINE = 'Everything for the harbour'

  set :root, '/app'
  set :host_authorization, permitted_hosts: [] if settings.respond_to?(:host_authorization)

  helpers do
    def redis
      @redis ||= Redis.new(url: ENV.fetch('REDIS_URL', 'redis://redis.gantry.internal:6379'), timeout: 2)
    end

    def price(cents)
      format('%.2f', cents / 100.0)
    end
  end

  # Whether this copy can serve; it says nothing of Redis, which all copies share.
  get '/up' do
    content_type 'text/plain'
    "up\n"
  end

  get '/' do
    @done = redis.get('orders:done').to_i
    erb :index
  end

  post '/orders' do
    product = PRODUCTS.find { |candidate| candidate['id'] == params['product'] }
    halt 422, "There is no such product.\n" unless product
    redis.lpush('orders:waiting', JSON.generate(product: product['id'], at: Time.now.to_i))
    redirect '/', 303
  end

  error Redis::BaseError do
    status 503
    "The shop cannot reach Redis; is it deployed?\n"
  end
end

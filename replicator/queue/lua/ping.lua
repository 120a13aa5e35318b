-- Write something small: refused, like an enqueue, when memory is full, the disk fails or this is a replica.
redis.call('SET', prefix .. ':ping', NOW, 'PX', 60000)
return 1

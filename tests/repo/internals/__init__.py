"""What cachekeeper uses of Celery, kombu and py-amqp, promised or not.

`listed` is the list, `checking` compares it with the installed versions, and `finder` finds what the code uses.
"""

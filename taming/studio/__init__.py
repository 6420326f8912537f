"""Paint a layout in the browser, get a landscape, change what you do not like.

A page served from this machine, one model, one worker, a queue:

    page/        plain HTML, CSS and JavaScript modules
    server.py    the doors: who may talk to us (guard.py), frames in and out (protocol.py)
    worker.py    one drawing at a time, in turn, cancelled when nobody wants it
    requests.py  what the page may ask for, checked
    studio.py    the answers: pictures, previews, layouts, codes
"""

"""Fetches a page twice: the server offers HTTP/3 in its first answer, and the second request tries it."""

import time

import niquests

URL = "https://www.example.net/page"

with niquests.Session() as session:
    first = session.get(URL)
    # A new connection, which would be of HTTP/3.
    session.close()
    begun = time.monotonic()
    second = session.get(URL)
    print(first.http_version, second.http_version, second.text.strip(), time.monotonic() - begun < 5)

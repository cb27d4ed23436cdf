"""Fetches two pages by each of Python's HTTP clients, as its documentation shows; says the versions."""

import asyncio
import json
import urllib.request

import aiohttp
import httpx
import niquests
import requests

PAGE = "https://www.example.net/page"
DENIED = "https://tracker.example.net/page"


def by_urllib(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def by_requests(url):
    with requests.Session() as session:
        session.get(url).raise_for_status()
        return session.get(url).text


def by_httpx(url):
    with httpx.Client(http2=True) as client:
        answer = client.get(url)
        return f"{answer.http_version} {answer.text}"


def by_aiohttp(url, resolver=None):
    async def fetch():
        connector = aiohttp.TCPConnector(resolver=resolver and resolver())
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(url) as answer:
                return await answer.text()

    return asyncio.run(fetch())


def by_aiodns(url):
    return by_aiohttp(url, aiohttp.AsyncResolver)


def by_niquests(url):
    """The server offers HTTP/3 in its first answer, so that the second request tries it."""
    with niquests.Session() as session:
        first = session.get(url)
        # A new connection, which would be of HTTP/3.
        session.close()
        second = session.get(url)
        return f"{first.http_version} {second.http_version} {second.text}"


said = {}
for client in (by_urllib, by_requests, by_httpx, by_aiohttp, by_aiodns, by_niquests):
    answers = said[client.__name__.removeprefix("by_")] = []
    for url in (PAGE, DENIED):
        try:
            answers.append(client(url).strip())
        except Exception as error:
            answers.append(type(error).__name__)
print(json.dumps(said))

"""The page in a browser: with a mouse, and without JavaScript."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from replicator.queue import Lane
from tests.deploy.tools import AXE
from tests.server.page.conftest import PASSWORD
from tests.server.page.seeding import bury, ended, lag, letter, remember

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer
    from tests.server.page.browser import Browser, Tab
    from tests.server.page.conftest import Site

STICKS_OUT = """
[...document.querySelectorAll("section *")]
  .filter((e) => e.getBoundingClientRect().right > e.closest("section").getBoundingClientRect().right)
  .map((e) => e.outerHTML.slice(0, 100))
"""
CLOCK = """
(() => { const time = document.querySelector("#copies time");
  return [time.querySelector(".clock").innerText, time.title, time.dateTime]; })()
"""
VIOLATIONS = """
axe.run(document, { resultTypes: ["violations"] }).then((result) => result.violations.map((violation) =>
  [violation.id, violation.help, violation.nodes.map((node) => node.html.slice(0, 200))]))
"""
"""What axe-core finds by all of its rules: WCAG 2.0 to 2.2 at levels A and AA, and its best practices."""


async def text(tab: Tab, part: str) -> str:
    found: str = await tab.value(f"document.getElementById('{part}').innerText")
    return found


async def filled(site: Site) -> None:
    """Have something of everything."""
    await remember(site.queue, *(ended(n, result="copied" if n % 2 else "up to date") for n in range(40)))
    await bury(site.queue, *(letter(n) for n in range(12)))
    await lag(site.queue, *((back, 3, 2.0, 8.0) for back in range(0, 90, 3)))


async def test_a_person_clicks_through_it(browser: Browser, site: Site) -> None:
    await filled(site)
    async with browser.tab(PASSWORD) as tab:
        await tab.look(1280)
        await tab.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
        await tab.go(site.url)
        clock, title, moment = await tab.value(CLOCK)
        here = datetime.fromisoformat(moment).astimezone(ZoneInfo("Asia/Kathmandu"))
        assert clock in (f"{here:%H:%M}", f"{here:%m-%d %H:%M}"), "local time"
        assert title == f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%S} UTC"
        assert (await tab.value("document.title")).endswith("\N{EN DASH} replicator")
        await tab.click("#failures .acts a")
        await tab.click("#failures nav a[rel=next]")
        await tab.until("document.querySelector('#failures nav a[rel=prev]') !== null")
        assert "mirror/dead:0" in await text(tab, "failures")
        await tab.click('#failures button[aria-label="Retry registry.cn-beijing.aliyuncs.com/mirror/dead:0"]')
        await tab.until("document.querySelector('.done')?.innerText === 'Queued again.'")
        await tab.click('#failures button[value="drop"]')
        await tab.until("document.querySelector('.done')?.innerText.startsWith('Dropped.')")
        counts = await site.queue.counts()
        assert (counts.dead, counts.lanes[Lane.EVENTS].queued) == (10, 1)
        assert "done" not in await tab.value("location.search")
        await tab.click("input[name=text]")
        await tab.write("app:3")
        await tab.press("Enter", 13)
        await tab.until("document.getElementById('copies')?.innerText.includes('11 of the last 40')")
        await tab.click("#lag .choice a")
        await tab.until("document.querySelector('#lag .choice strong')?.innerText === '6 h'")
        assert "11 of the last 40" in await text(tab, "copies"), "one choice leaves the others"
        await tab.click("#rules tbody a")
        await tab.until("document.querySelector('select[name=rule]')?.value.endsWith('/team/**')")
        assert tab.trouble == []


@pytest.mark.scale
async def test_it_refreshes_itself_but_not_what_is_in_use(
    browser: Browser, own_site: Site, own_server: RedisServer
) -> None:
    site = own_site
    await filled(site)
    async with browser.tab(PASSWORD) as tab:
        await tab.go(site.url)
        await tab.value("document.querySelector('#failures button').focus()")
        await tab.value("document.querySelector('input[name=text]').value = 'half a wo'")
        await bury(site.queue, letter(100))
        await remember(site.queue, ended(777))
        await tab.until("document.getElementById('copies').innerText.includes('app:777')")
        await tab.until("document.getElementById('queue').innerText.includes('13 dead letters')")
        assert await tab.value("document.activeElement.value") == "retry cause"
        assert await tab.value("document.querySelector('input[name=text]').value") == "half a wo"
        own_server.kill()
        await tab.until("document.getElementById('head').innerText.includes('The queue does not respond.')")
        assert await tab.value("document.getElementById('copies').classList.contains('stale')")
        await tab.go(f"{site.url}?hours=6")
        await tab.until("document.querySelector('main') === null")
        own_server.start()
        await tab.until("document.getElementById('copies')?.innerText.includes('app:777')")
        assert await tab.value("document.querySelectorAll('.stale').length") == 0
        # The browser itself says that an answer was 503; nothing else went wrong.
        assert [trouble for trouble in tab.trouble if "503" not in trouble] == []


async def test_it_can_be_paused_and_says_when_it_is_out_of_date(browser: Browser, site: Site) -> None:
    await filled(site)
    async with browser.tab(PASSWORD) as tab:
        await tab.go(site.url)
        await tab.click("#pause")
        await tab.until("document.getElementById('refreshed').innerText === 'Paused.'")
        await tab.click("#pause")
        await tab.until("document.getElementById('refreshed').innerText.startsWith('Refreshes')")
        site.server.should_exit = True
        await tab.until("document.getElementById('refreshed').innerText.startsWith('Out of date')")
        assert await tab.value("document.getElementById('copies').classList.contains('stale')")


async def test_it_works_without_javascript(browser: Browser, site: Site) -> None:
    await filled(site)
    async with browser.tab(PASSWORD, scripts=False) as tab:
        await tab.go(site.url)
        assert await tab.value("document.getElementById('pause').hidden")
        await tab.click('#failures button[value="retry cause"]')
        await tab.until("document.querySelector('.done')?.innerText === 'Queued again.'")
        assert (await site.queue.counts()).dead == 0
        assert " UTC" in await tab.value("document.querySelector('#copies time .clock').innerText")


async def violations(tab: Tab) -> list[Any]:
    await tab.value(AXE.read_text())
    found: list[Any] = await tab.value(VIOLATIONS)
    return found


async def test_it_fits_every_screen_in_every_language_and_axe_finds_nothing(browser: Browser, site: Site) -> None:
    await filled(site)
    reason = "what\n" + "why it failed " * 20 + "\ndo"
    await bury(site.queue, letter(50, id="h.example/" + "a" * 500, message="b" * 600 + reason))
    given_up = {"error_class": "permanent", "result": "given up", "note": reason}
    await remember(site.queue, ended(5, source="h.example/" + "a" * 500, **given_up), ended(6, **given_up))
    async with browser.tab(PASSWORD) as tab:
        await tab.go(site.url)
        cause = await tab.value("document.querySelector('#failures .acts a').search")
        for width, dark, query in (
            (320, False, ""),
            (1280, True, cause),
            (390, False, cause),
            (768, True, "?by=all&image=harbor.example.com%2Fteam%2Fapp%3A1"),
            (390, True, f"?copy={quote(letter(3)['id'], safe='')}"),
            (1280, False, ""),
        ):
            await tab.look(width, dark=dark)
            await tab.go(site.url + query)
            if (width, dark) == (390, False):
                await tab.click("footer a")
                await tab.until("document.documentElement.lang === 'zh-CN'")
            # What is too wide makes a phone's own width larger, so it is compared with ours.
            assert await tab.value(f"Math.max(document.documentElement.scrollWidth, innerWidth) <= {width}")
            assert await tab.value(STICKS_OUT) == []
            if query:
                assert await violations(tab) == [], query
        # The keyboard comes to every button and field, in the order of the page.
        assert await tab.value("document.querySelectorAll('[tabindex], [autofocus]').length") == 0


async def test_a_hundred_and_fifty_failures_of_three_causes_make_a_short_page(browser: Browser, site: Site) -> None:
    await filled(site)
    reasons = [f"PUT {{}}: {word}\nwhy it is {word}\nwhat to do" for word in ("denied", "immutable", "unknown")]
    failures = [letter(n, message=reasons[n % 3].format(n)) for n in range(100, 250)]
    await bury(site.queue, *failures)
    given_up = {"result": "given up", "error_class": "permanent"}
    await remember(site.queue, *(ended(n, note=reasons[n % 3].format(n), **given_up) for n in range(100, 250)))
    async with browser.tab(PASSWORD) as tab:
        await tab.look(1280)
        await tab.go(site.url)
        assert await tab.value("document.querySelectorAll('.causes > li').length") == 4
        assert await tab.value("document.documentElement.scrollHeight") <= 2500

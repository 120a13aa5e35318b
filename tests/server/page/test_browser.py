"""The page in a browser: with a mouse, and without JavaScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.queue import Lane
from tests.server.page.conftest import PASSWORD
from tests.server.page.seeding import bury, ended, lag, letter, remember

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer
    from tests.server.page.browser import Browser, Tab
    from tests.server.page.conftest import Site

# Contrast as in WCAG 2.2, 1.4.3: every text that is seen, against the nearest background that is not transparent.
CONTRAST = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const faint = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest("script, style, .unseen, option, title")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([walk.currentNode.data.trim(), (a + 0.05) / (b + 0.05)]);
  }
  return faint;
})()
"""
STICKS_OUT = """
[...document.querySelectorAll("section *")]
  .filter((e) => e.getBoundingClientRect().right > e.closest("section").getBoundingClientRect().right)
  .map((e) => e.outerHTML.slice(0, 100))
"""
UNNAMED = """
[...document.querySelectorAll("button, a, input:not([type=hidden]), select, progress, svg[role=img]")]
  .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length)))
  .map((e) => e.outerHTML)
"""


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
        await tab.go(site.url)
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


async def test_it_fits_every_screen_can_be_read_and_everything_has_a_name(browser: Browser, site: Site) -> None:
    await filled(site)
    await remember(site.queue, ended(5, source="h.example/" + "a" * 500, error_class="permanent", result="given up"))
    async with browser.tab(PASSWORD) as tab:
        for width in (320, 390, 768, 1280):
            for dark in (False, True):
                await tab.look(width, dark=dark)
                await tab.go(site.url)
                # What is too wide makes a phone's own width larger, so it is compared with ours.
                assert await tab.value(f"Math.max(document.documentElement.scrollWidth, innerWidth) <= {width}")
                assert await tab.value(STICKS_OUT) == []
                assert await tab.value(CONTRAST) == []
        assert await tab.value(UNNAMED) == []
        assert await tab.value("document.documentElement.lang") == "en"
        # The keyboard comes to every button and field, in the order of the page.
        assert await tab.value("document.querySelectorAll('[tabindex], [autofocus]').length") == 0

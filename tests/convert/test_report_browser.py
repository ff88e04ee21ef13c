"""The report in a real browser: headless Chromium, spoken to over a pipe (no driver needed)."""

import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from convert.reports import CHANNELS, failure, ledger_entry, synthetic_entries

from amae_nnunet.convert.montage import montage, save_montage
from amae_nnunet.convert.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
PATIENCE = 30  # s
CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}
MOVED = {"accepted": True, "rotation": [0.0, 0.0, 0.02], "shift": 2.345, "angle": 1.1459}
MOVED |= {"before": 0.4141, "after": 0.5199, "reason": ""}
STAYS = {**MOVED, "accepted": False, "reason": "a motion brings nothing (0.520 nats after 0.519)"}
DICOM = {"source": "dicom", "evidence": "type.t1", "manufacturer": "Siemens", "field_strength": 3.0}
DICOM |= {"echo_time": 2.41, "flip_angle": 9.0, "b_value": 0.0, "strange_fact": [1.0, 2.0]}
HOSTILE = (
    "<img src=x onerror=window.broken=1>",
    "</script><script>window.broken=1</script>",
    "\" onclick='window.broken=1' x=\"",
    "@DATA@&lt;b&gt;%3Cb%3E",
)


class Browser:
    """Commands go to the browser's descriptor 3, answers and events come from its 4."""

    def __init__(self, profile):
        to_browser, self.out = os.pipe()
        self.inp, from_browser = os.pipe()
        moved = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        command = ["bash", "-c", moved, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.unread, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.out)
        os.close(self.inp)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self, deadline):
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.inp], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.inp, 1 << 16)
            assert part, "the browser has gone"
            self.unread += part
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def open(self, path, fragment=""):
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def __call__(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        deadline = time.monotonic() + PATIENCE
        while not self(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def press(self, key):
        """A real key event, as a keyboard makes it."""
        code = CODES.get(key, ord(key[0].upper()))
        event = {"key": key, "windowsVirtualKeyCode": code}
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def texts(self, selector):
        return self(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)")

    def complaints(self):
        """Exceptions, and what the console says, but for pictures that are not there."""
        bad = [e["params"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        return bad + [entry for entry in logged if entry["source"] != "network"]

    def requests(self):
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [item["request"]["url"] for item in sent]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(tmp_path):
    """Three cases, one of them without a picture, and one that failed."""
    entries = [
        ledger_entry("a1", "110", warnings=["W_COVERAGE: T2 covers 60.0% of the grid"]),
        ledger_entry("a2", "111", subject="s2", registration=MOVED),
        ledger_entry("a10", "110", montage=False),
    ]
    entries[0]["contrasts"]["FLAIR"] = {"status": "dropped", "code": "E_EMPTY"}
    entries[1]["contrasts"]["T1"] |= DICOM
    entries[2]["contrasts"]["T2"]["registration"] = STAYS
    voxels = np.random.default_rng(0).random((10, 40, 30)) * 100
    (tmp_path / "report").mkdir()
    save_montage(
        montage({"T1": voxels, "T2": voxels, "FLAIR": None}, None, (1, 1, 4)),
        tmp_path / "report" / "a1.webp",
    )
    failures = [failure("b", "E_DAMAGED", "T1.nii.gz is damaged: copy it again")]
    return write_report(tmp_path, "Dataset001_Tiny", CHANNELS, entries, failures)


def rows(browser):
    return [text.split("\t") for text in browser.texts("#matrix tbody tr")]


def test_the_matrix_shows_doubtful_cases_first(browser, page):
    browser.open(page)
    assert [row[0] for row in rows(browser)] == ["b", "a1", "a2", "a10"]
    assert rows(browser)[1][:5] == ["a1", "train", "●", "◐", "✕"]
    assert rows(browser)[1][-1].strip() == "W_COVERAGE"
    assert browser.texts(".headline dd") == ["3", "1", "1", "3", "3"]
    assert browser("document.querySelector('#viewer').hidden")
    assert browser.complaints() == []


def test_open_folds_list_the_failures_with_links(browser, page):
    browser.open(page)
    browser.until("document.querySelector('[data-code=E_DAMAGED] li')")
    assert browser.texts("[data-code=E_DAMAGED] li") == ["b: T1.nii.gz is damaged: copy it again"]
    browser("document.querySelector('[data-code=W_COVERAGE] summary').click()")
    browser.until("document.querySelector('[data-code=W_COVERAGE] li a')")
    browser("document.querySelector('[data-code=W_COVERAGE] li a').click()")
    browser.until("!document.querySelector('#viewer').hidden")
    assert browser.texts("#viewer h1") == ["a1"]


def test_what_is_said_of_several_cases_is_said_once(browser, tmp_path):
    texts = ["no T1", "no T2", "no T1"]
    failures = [failure(case, "E_REQUIRED", text) for case, text in zip("abc", texts, strict=True)]
    browser.open(write_report(tmp_path, "x", CHANNELS, [], failures))
    browser.until("document.querySelector('[data-code=E_REQUIRED] li')")
    assert browser.texts("[data-code=E_REQUIRED] li") == ["a, c: no T1", "b: no T2"]
    assert browser.texts("[data-code=E_REQUIRED] li a") == ["a", "c", "b"]


@pytest.mark.parametrize(("forth", "back"), [("j", "k"), ("ArrowRight", "ArrowLeft")])
def test_keys_walk_through_the_cases(browser, page, forth, back):
    heading = "document.querySelector('#viewer h1').textContent"
    browser.open(page, "#case=a1")
    assert browser.texts("#viewer h1") == ["a1"]
    browser.press(forth)
    browser.until(f"{heading} === 'a2'")
    browser.press(forth)
    browser.until(f"{heading} === 'a10'")
    assert browser("document.querySelector('[data-step=\"1\"]').disabled")
    browser.press(forth)
    for case in ("a2", "a1", "b"):
        browser.press(back)
        browser.until(f"{heading} === '{case}'")
    browser.press("Escape")
    browser.until("!document.querySelector('#overview').hidden")
    assert browser("document.querySelector('#viewer').hidden")
    assert browser.complaints() == []


def test_buttons_walk_too_and_typing_does_not(browser, page):
    browser.open(page)
    browser.press("/")
    assert browser("document.activeElement.id") == "filter"
    for key in "a1":
        browser.press(key)
    browser.until("document.querySelector('#filter').value === 'a1'")
    assert [row[0] for row in rows(browser)] == ["a1", "a10"]
    browser.press("j")
    assert browser("location.hash") == ""
    assert rows(browser) == []
    browser.open(page, "#case=b")
    browser("document.querySelector('[data-step=\"1\"]').click()")
    browser.until("document.querySelector('#viewer h1').textContent === 'a1'")


def test_a_case_shows_its_picture_its_facts_and_its_doubts(browser, page):
    browser.open(page, "#case=a1")
    browser.until("document.querySelector('#picture img').complete")
    assert browser("document.querySelector('#picture img').naturalWidth") > 900
    assert "T1, T2; the label" in browser("document.querySelector('#picture img').alt")
    assert browser.texts(".problems li") == ["W_COVERAGE T2 covers 60.0% of the grid"]
    facts = [line.split("\t") for line in browser.texts("#viewer section:first-of-type tbody tr")]
    assert facts[0][:4] == ["T1", "present", "100.0 %", "20 × 30 × 10"]
    assert facts[1][:3] == ["T2", "resampled", "60.0 %"]
    assert facts[2][:2] == ["FLAIR", "dropped: E_EMPTY"]
    assert browser.texts("#viewer section:last-of-type tbody td") == ["lesion", "250", "0.75"]


def test_pictures_that_are_not_there_are_said_to_be(browser, page):
    browser.open(page, "#case=a2")
    browser.until("document.querySelector('.unseen')")
    assert browser.texts(".unseen") == ["The picture is not beside this page: report/a2.webp"]
    assert "subject s2" in browser.texts("#viewer h1 + p")[0]
    browser.open(page, "#case=a10")
    assert browser.texts(".unseen") == ["No picture was drawn."]
    browser.open(page, "#case=b")
    assert browser.texts(".unseen") == ["The case failed: no files were written."]


def test_facts_have_names_and_units(browser, page):
    def further(case):
        browser.open(page, f"#case={case}")
        return [line.split("\t")[-1] for line in browser.texts("#viewer section tbody tr")][:3]

    t1, t2, flair = further("a2")
    assert t1 == (
        "named by type.t1, Siemens, 3 T, TE 2.41 ms, flip angle 9 degrees, b 0 s/mm², strange fact "
        "1 2"
    )
    assert t2 == "moved 2.3 mm, turned 1.1 degrees: mutual information 0.41 to 0.52 nats"
    assert flair == ""
    assert further("a10")[1] == f"not moved: {STAYS['reason']}"


def test_each_word_for_a_contrast_is_defined_and_no_other_is_used(browser, page):
    browser.open(page)
    marks = dict(text.split()[::-1] for text in browser.texts(".words dt"))
    assert list(marks) == ["there", "present", "resampled", "dropped", "absent"]
    said = browser("[...document.querySelectorAll('#matrix [aria-label]')].map(e => e.ariaLabel)")
    assert set(said) == set(marks) - {"there"}  # a case says which of the two it is,
    patterns = set(
        "".join(browser.texts(".pair div:first-child tbody td, .pair div:first-child tbody th"))
    )
    assert marks["there"] in patterns  # a pattern does not
    assert marks["present"] not in patterns


def test_sorting_and_the_pattern_filter(browser, page):
    browser.open(page)
    browser("document.querySelector('[data-sort=case]').click()")
    assert [row[0] for row in rows(browser)] == ["a1", "a2", "a10", "b"]
    browser("document.querySelector('[data-sort=case]').click()")
    assert [row[0] for row in rows(browser)] == ["b", "a10", "a2", "a1"]
    assert browser("document.querySelector('th[aria-sort]').innerText").startswith("case")
    browser("document.querySelector('[data-pattern=\"110\"]').click()")
    assert [row[0] for row in rows(browser)] == ["a10", "a1"]
    assert browser.texts("#pattern, #count") == ["only T1 + T2 ×", "2 of 4"]
    browser("document.querySelector('#pattern').click()")
    assert len(rows(browser)) == 4


def test_hostile_names_stay_text(browser, tmp_path):
    entries = [
        ledger_entry(name, "110", source=name, subject=name, warnings=[f"W_FRAME: {name}"])
        for name in HOSTILE
    ]
    failures = [failure(f"f{name}", "E_NAME", name) for name in HOSTILE]
    page = write_report(tmp_path, HOSTILE[1], CHANNELS, entries, failures)
    for name in HOSTILE:
        browser.open(page, f"#case={browser(f'encodeURIComponent({json.dumps(name)})')}")
        assert browser("document.querySelector('#viewer h1').textContent") == name
        assert browser.texts(".problems li") == [f"W_FRAME {name}"]
        browser.press("Escape")
        browser.until("!document.querySelector('#overview').hidden")
        shown = browser("[...document.querySelectorAll('#matrix a')].map(a => a.textContent)")
        assert sorted(shown) == sorted([*HOSTILE, *(f"f{name}" for name in HOSTILE)])
        assert browser("document.querySelector('#overview h1').textContent") == HOSTILE[1]
        assert browser("document.querySelectorAll('#overview img').length") == 0
        assert browser("window.broken === undefined")
        assert browser.complaints() == []


def test_the_policy_lets_no_other_script_run(browser, page):
    browser.open(page)
    browser("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=broken=1>')")
    browser.until("[...document.images].at(-1).complete")
    assert browser("window.broken === undefined")
    assert any("Content Security Policy" in entry["text"] for entry in browser.complaints())


def test_nothing_is_loaded_but_the_pages_own_pictures(browser, page):
    browser.open(page, "#case=a1")
    browser.until("document.querySelector('#picture img').complete")
    folder = page.parent.as_uri()
    assert len(browser.requests()) >= 2
    assert all(url.startswith(folder) for url in browser.requests())


def test_two_thousand_cases_are_drawn_a_hundred_at_a_time(browser, tmp_path):
    page = write_report(tmp_path, "Dataset002_Many", CHANNELS, synthetic_entries(2000), [])
    assert page.stat().st_size < 1.2e6
    browser.open(page)
    assert len(rows(browser)) == 100
    assert browser("performance.timing.loadEventEnd - performance.timing.navigationStart") < 5000
    browser("document.querySelector('#matrix').scrollTo(0, 1e6)")
    browser.until("document.querySelectorAll('#matrix tbody tr').length === 200")


def test_dark_and_light_are_readable_and_paper_has_no_buttons(browser, page):
    browser.open(page)
    colours = "(e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.call("Emulation.setEmulatedMedia", features=[feature])
        text, ground = browser(f"{colours}(document.querySelector('section'))")
        assert ratio(text, ground) > 7, scheme
        dim, _ = browser(f"{colours}(document.querySelector('.dim'))")
        assert ratio(dim, ground) > 4.5, scheme
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert browser("getComputedStyle(document.querySelector('#matrix')).maxHeight") == "none"
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def ratio(one, other):
    """The contrast of two ``rgb(r, g, b)`` by WCAG 2."""

    def luminance(colour):
        parts = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)

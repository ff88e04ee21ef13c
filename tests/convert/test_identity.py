import errno
import os
import stat

import pytest
from convert.studies import make_case, save, voxels, write_template

from amae_nnunet.convert.identity import Identities, default_key_file, hash_cases
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "deep" / "id.key"
    first, again = Identities.from_file(path), Identities.from_file(path)
    assert first == again
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identities.from_file(tmp_path / "other.key") != first


def test_a_new_key_is_told_and_only_made_where_it_may(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "id.key"
    with pytest.raises(ConfigError, match=r"id.key is not there, .*: give the key used so far"):
        Identities.from_file(path, make=False)
    assert not path.exists()
    made = Identities.from_file(path)
    assert [record.message for record in caplog.records] == [
        f"new key: {path}: keep it, only with it can studies be found again or added"
    ]
    assert Identities.from_file(path, make=False) == Identities.from_file(path) == made
    assert len(caplog.records) == 1


def test_of_two_runs_that_make_the_key_both_have_that_of_the_first(tmp_path, monkeypatch):
    path, other = tmp_path / "id.key", "0" * 64

    def link(source, target):  # the other run was here
        path.write_text(other)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    assert Identities.from_file(path).key == other.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_without_hard_links_has_a_key_too(tmp_path, monkeypatch):
    def link(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "id.key"
    assert Identities.from_file(path) == Identities.from_file(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_is_known_by_its_mark_and_by_what_it_named():
    ids, other = Identities(b"k" * 16), Identities(b"l" * 16)
    assert ids.mark == Identities(b"k" * 16).mark != other.mark
    cases = {ids.case("1.2.3"): "1.2.3", "by hand": "1.2.4"}
    assert ids.made(cases)
    assert not other.made(cases)
    assert ids.made({ids.case("1.2.3"): "1.2.3", ids.case("1.2.5"): "1.2.4"})  # moved by hand
    assert other.made({"by hand": "1.2.4"})


def test_identifiers_depend_on_key_and_kind_and_are_as_hmac_says():
    ids = Identities(b"k" * 16)
    # printf 'study:1.2.3' | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkk
    assert ids.case("1.2.3") == "c22b5620d93c6"
    assert ids.case("1.2.3")[1:] != ids.subject("1.2.3")[1:]
    assert ids.case("1.2.3") != Identities(b"l" * 16).case("1.2.3")
    assert ids.case("1.2.3") != ids.case("1.2.4")


def test_names_that_are_not_utf_8_have_identifiers_too():
    ids = Identities(b"x" * 16)
    names = [os.fsdecode(name) for name in (b"M\xfcller", b"M\xf6ller", "Müller".encode())]
    assert len({ids.case(name) for name in names}) == 3


def test_a_bad_key_file_is_refused(tmp_path):
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="shorter than 16 bytes"):
        Identities.from_file(tmp_path / "short")
    with pytest.raises(ConfigError, match="give another with --key"):
        Identities.from_file(tmp_path)


def test_the_default_key_lies_in_the_users_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_file() == tmp_path / "amae-nnunet" / "id.key"


def test_hashed_cases_carry_no_name_of_a_file_or_folder(tmp_path):
    template = load_template(str(write_template(tmp_path)))
    make_case(tmp_path / "raw", "MillerAnna")
    make_case(tmp_path / "raw", "SmithJohn", contrasts=("T1",))
    save(tmp_path / "raw" / "MillerAnna" / "MillerOther.nii.gz", voxels())
    ids = Identities(b"k" * 16)
    good, bad = hash_cases(scan(tmp_path / "raw", template), ids)
    assert (good.case, good.subject) == (ids.case("MillerAnna"), ids.subject("MillerAnna"))
    assert [source.name for source in good.contrasts.values()] == [
        "T1 image",
        "FLAIR image",
        "T1CE image",
    ]
    assert good.contrasts["T1"].read()[0].shape == voxels().shape
    assert bad.code == "E_REQUIRED"
    assert good.id_key == bad.id_key == ids.mark
    shown = [good.case, good.source, good.subject, good.label.name, *good.unmatched, bad.problem]
    assert not any(name in text for name in ("Miller", "Smith") for text in shown)

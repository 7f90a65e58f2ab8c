"""`[gateway] engine`: one line where the wanted one is not here, and between two gateways on different engines traffic flows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from site_pair import site_pair, write_config

from ipsec_fast.dataplane.engine import engines

WITHOUT = """
import sys
sys.modules["ipsec_fast.dataplane.ipsecmb"] = None  # what an import says where the module or its library is not there
from ipsec_fast.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_engine_that_is_not_here_is_one_line_before_anything_is_touched(tmp_path: Path) -> None:
    file = write_config(tmp_path, "a", gateway='engine = "ipsecmb"')
    done = subprocess.run([sys.executable, "-c", WITHOUT, "gateway", str(file)], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.endswith(" engine ipsecmb is not available here; there is openssl")


# the last is one that ipsec-mb lacks: OpenSSL's work, whatever was preferred
@pytest.mark.netns
@pytest.mark.timeout(120)
@pytest.mark.skipif("ipsecmb" not in engines(), reason="Intel ipsec-mb is not here")
@pytest.mark.parametrize(
    "suite", ["aes128gcm16", "chacha20poly1305", "aes256-sha256", "aes128ctr-aescmac", "null-sha512", "aes192ccm16"]
)
def test_gateways_on_different_engines_carry_traffic(tmp_path: Path, suite: str) -> None:
    with site_pair("eng", tmp_path) as pair:
        b = pair.gateway("b", esp=suite, gateway='engine = "openssl"').wait_for("listening")
        a = pair.gateway("a", esp=suite, gateway='engine = "ipsecmb"').wait_for("listening")
        a.command("up", "net", "--timeout", "30")
        assert pair.ping() == pair.ping("b") == 3
        shown = [json.loads(one.command("status", "--json"))["gateway"]["engine"] for one in (a, b)]
        assert shown == ["ipsecmb", "openssl"]

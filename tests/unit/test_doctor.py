"""The doctor's single checks, and the command line in front of them. No Ray here."""

import http.server
import resource
import subprocess
import sys
import threading

import pytest

from sightline.__main__ import main, read
from sightline.config.resources import ResourcesConfig
from sightline.distributed import doctor


def test_help_is_fast_and_light():
    code = (
        "import sys\nfrom sightline.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str({'torch', 'ray', 'transformers', 'pydantic'} & set(sys.modules) or ''))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "doctor" in done.stdout
    assert done.stderr.strip() == ""
    # CPU time, which is what a quiet machine's clock would show.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


def test_versions_of_this_environment_are_the_pinned_ones():
    check = doctor.packages()
    assert check.status == "ok", check.line()
    assert "torch 2.13.0" in check.value


def test_a_wrong_version_fails_and_names_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: {"ray": "1.0", "peft": None}.get(name, "2.13.0"))
    check = doctor.packages()
    assert check.status == "fail"
    assert "ray 1.0 (wanted ==2.60.0)" in check.value
    assert "peft missing" in check.value


def test_every_local_check_answers_on_this_machine():
    for check in (doctor.python(), doctor.torchvision(), doctor.devices(), doctor.cpus()):
        assert check.status != "fail", check.line()
        assert check.advice or check.status == "ok"


def test_shared_memory(tmp_path, monkeypatch):
    assert doctor.shared_memory(str(tmp_path / "none")).status == "warn"
    monkeypatch.setattr(doctor, "MIN_SHM_GIB", 1e9)
    assert "--shm-size" in doctor.shared_memory(str(tmp_path)).advice


def test_cpu_quota(tmp_path):
    file = tmp_path / "cpu.max"
    file.write_text("150000 100000\n")
    assert doctor._cpu_quota(str(file)) == 1.5
    file.write_text("max 100000\n")
    assert doctor._cpu_quota(str(file)) is None


def test_storage_is_tried_and_left_clean(tmp_path):
    assert doctor.storage(str(tmp_path / "runs")).status == "ok"
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    (tmp_path / "file").write_text("")
    check = doctor.storage(str(tmp_path / "file" / "runs"))
    assert check.status == "fail"
    assert check.advice


def test_storage_in_rays_package_cache_is_warned_about(tmp_path):
    check = doctor.storage(str(tmp_path / "runtime_resources" / "runs"))
    assert check.status == "warn"


def test_tracking(tmp_path):
    assert doctor.tracking(f"sqlite:///{tmp_path}/mlflow.db").status == "ok"
    assert doctor.tracking("sqlite:////proc/mlflow.db").status == "fail"
    assert doctor.tracking("http://127.0.0.1:9").status == "fail"
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    check = doctor.tracking(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    assert "404" in check.value


def test_model(tmp_path, monkeypatch):
    assert doctor.model("world").status == "ok"
    assert doctor.model(str(tmp_path)).status == "fail"
    (tmp_path / "config.json").write_text("{}")
    assert doctor.model(str(tmp_path)).status == "ok"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor.model("nobody/nothing").status == "fail"


def test_an_address_where_nothing_listens():
    assert "refused" in doctor._unreachable("127.0.0.1:9")
    assert "refused" in doctor._unreachable("ray://127.0.0.1:9")
    assert doctor._unreachable("auto") == ""


def test_a_job_servers_address_is_no_cluster():
    (check,) = doctor.cluster(ResourcesConfig(address="http://127.0.0.1:8265"))
    assert check.status == "fail"
    assert "host:6379" in check.advice


def test_arguments_of_the_doctor_go_to_the_loader():
    arguments, settings = read(["doctor", "--config", "a.yaml", "resources.workers=2"])
    assert arguments.command == "doctor"
    assert settings == ["--config", "a.yaml", "resources.workers=2"]


def test_wrong_usage_is_refused(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["ask", "a.png", "why?", "resources.workers=2"])
    assert leave.value.code == 2
    assert main(["doctor", "resurces.workers=2"]) == 1
    assert "did you mean `resources.workers`" in capsys.readouterr().err

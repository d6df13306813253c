package integration

import (
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// database is the server's SQLite database.
const database = "/var/lib/knarr/server/db/knarr.db"

// backedUp has the running server's state backed up and returns the file.
func backedUp(t *testing.T, s *cluster.Server) string {
	t.Helper()
	out, err := s.Command(t.Context(), "backup")
	must(t, err)
	var made struct{ File, Engine string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.File == "" {
		t.Fatalf("backup printed %s, %v", out, err)
	}
	return made.File
}

// stop waits until the start is over: upstream's components do not all end well before.
func stop(t *testing.T, s *cluster.Server) {
	t.Helper()
	eventually(t, s, "all components", func() error {
		_, err := s.Command(t.Context(), "status")
		return err
	})
	if code, err := s.Stop(t.Context()); err != nil || code != 0 {
		t.Fatalf("stop: %d, %v", code, err)
	}
}

func keep(t *testing.T, c *cluster.Client, name string) {
	t.Helper()
	_, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
}

func has(t *testing.T, c *cluster.Client, name string) bool {
	t.Helper()
	_, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// engine is the store that the running server says it has, when it is compacted and checked while it runs.
func engine(t *testing.T, s *cluster.Server) string {
	t.Helper()
	out, err := s.Command(t.Context(), "datastore", "compact")
	must(t, err)
	var st struct{ Engine string }
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("compact printed %s, %v", out, err)
	}
	_, err = s.Command(t.Context(), "datastore", "check")
	must(t, err)
	return st.Engine
}

// TestUpgradeDamageAndRestore has another version's data backed up before this one uses it, or refused, damages the database, and
// goes back to the backup that the server then names.
func TestUpgradeDamageAndRestore(t *testing.T) {
	s := alone(t, "upgrade")
	keep(t, start(t, s), "kept")
	if got := engine(t, s); got != "sqlite" {
		t.Errorf("the engine is %s", got)
	}
	stop(t, s)
	script(t, s.Host, "set -e; rmdir /var/lib/knarr/backups; echo v1.36.9+knarr1 > /var/lib/knarr/version; echo > /var/lib/knarr/backups")
	said, code := outcome(t, s.Host, lab.Cmd{Args: append([]string{s.Program, "server"}, s.Args...)})
	if code != 1 || !strings.Contains(said, "--disable-upgrade-backup") {
		t.Errorf("where no backup can be made: exit code %d, %s", code, said)
	}
	if stamp := script(t, s.Host, "cat /var/lib/knarr/version; rm /var/lib/knarr/backups"); stamp != "v1.36.9+knarr1" {
		t.Errorf("the data was taken over all the same: %s", stamp)
	}
	c := start(t, s)
	keep(t, c, "later")
	seen := newest(t, c)
	if _, err := s.Command(t.Context(), "datastore", "check"); err != nil {
		t.Error(err)
	}
	stop(t, s)
	file := strings.TrimSpace(script(t, s.Host, "ls /var/lib/knarr/backups/*"))
	if _, err := s.Command(t.Context(), "backup", "verify", file); err != nil {
		t.Errorf("the backup made before the upgrade: %v", err)
	}
	script(t, s.Host, "rm -f "+database+"-wal "+database+"-shm; dd if=/dev/urandom of="+database+" bs=1k seek=8 count=16 conv=notrunc 2>&1")
	said, code = outcome(t, s.Host, lab.Cmd{Args: append([]string{s.Program, "server"}, s.Args...)})
	if code != 1 || !strings.Contains(said, "knarr restore "+file) {
		t.Errorf("with a damaged database: exit code %d; want the good backup %s named in\n%s", code, file, said)
	}
	_, err := s.Command(t.Context(), "restore", file)
	must(t, err)
	if stamp := script(t, s.Host, "cat /var/lib/knarr/version"); stamp != "v1.36.9+knarr1" {
		t.Errorf("after the restore the data is that of %s, and the older version would be refused", stamp)
	}
	c = start(t, s)
	if !has(t, c, "kept") || has(t, c, "later") {
		t.Errorf("after the restore: kept %t, later %t", has(t, c, "kept"), has(t, c, "later"))
	}
	if now := newest(t, c); now <= seen {
		t.Errorf("after the restore the revision is %d; clients saw %d before", now, seen)
	}
	w, err := c.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: strconv.FormatInt(seen, 10)})
	if err == nil {
		e := <-w.ResultChan()
		w.Stop()
		err = apierrors.FromObject(e.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("who watches from a revision of before the restore is told %v, want that it is gone", err)
	}
}

// newest is the revision that a client knows after it listed something.
func newest(t *testing.T, c *cluster.Client) int64 {
	t.Helper()
	l, err := c.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	rev, err := strconv.ParseInt(l.ResourceVersion, 10, 64)
	must(t, err)
	return rev
}

// TestEmbeddedEtcd begins a cluster on a server that has a SQLite database, backs it up, and begins anew with that backup.
func TestEmbeddedEtcd(t *testing.T) {
	s := alone(t, "etcd")
	keep(t, start(t, s), "from-sqlite")
	stop(t, s)
	s.Args = append(s.Args, "--etcd-expose-metrics", "--etcd-arg=quota-backend-bytes=1073741824", "--cluster-init")
	c := start(t, s)
	if !has(t, c, "from-sqlite") {
		t.Error("what SQLite held is not in etcd")
	}
	if got := engine(t, s); got != "etcd-embedded" {
		t.Errorf("the engine is %s", got)
	}
	web := s.Host.HTTPClient(10 * time.Second)
	defer web.CloseIdleConnections()
	r, err := web.Get("http://127.0.0.1:2381/metrics")
	must(t, err)
	metrics, err := io.ReadAll(r.Body)
	must(t, errors.Join(err, r.Body.Close()))
	if !strings.Contains(string(metrics), "etcd_server_quota_backend_bytes 1.073741824e+09") {
		t.Errorf("the metrics do not tell of the quota that was asked for: %.500s", metrics)
	}
	file := backedUp(t, s)
	keep(t, c, "after-backup")
	must(t, s.Process().Kill())
	s.Args = s.Args[:len(s.Args)-1] // what is on the disk decides
	c = start(t, s)
	if !has(t, c, "after-backup") {
		t.Error("what was acknowledged is lost after kill -9")
	}
	stop(t, s)
	args := append([]string{s.Program, "server", "--cluster-reset", "--cluster-reset-restore-path=" + file}, s.Args...)
	if said, code := outcome(t, s.Host, lab.Cmd{Args: args}); code != 0 || !strings.Contains(said, "only member") {
		t.Fatalf("reset: exit code %d, %s", code, said)
	}
	if said, code := outcome(t, s.Host, lab.Cmd{Args: args}); code != 1 || !strings.Contains(said, "reset already") {
		t.Errorf("a second reset: exit code %d, %s", code, said)
	}
	c = start(t, s)
	if !has(t, c, "from-sqlite") || has(t, c, "after-backup") {
		t.Errorf("after the restore: from-sqlite %t, after-backup %t", has(t, c, "from-sqlite"), has(t, c, "after-backup"))
	}
	if strings.Contains(s.Log(), "etcd: ") {
		t.Errorf("etcd has something to say about a healthy start:\n%s", s.Log())
	}
	if got := engine(t, s); got != "etcd-embedded" {
		t.Errorf("the engine is %s", got)
	}
}

package pki

import (
	"crypto/elliptic"
	"maps"
	"strings"
	"testing"
	"time"
)

// TestInventoryGolden shows each status, as a person sees it.
func TestInventoryGolden(t *testing.T) {
	dir := t.TempDir()
	c := testConfig(dir)
	root := newTestCA(t, "corporate root", ecKey(t, elliptic.P256()), nil, testNow().Add(300*days))
	root.place(t, c.CAPair(ClientCA))
	mustEnsure(t, testNow(), c)
	c.LeafLifetime = 150 * days
	if _, err := Rotate(testNow(), c, []string{"scheduler"}); err != nil {
		t.Fatal(err)
	}
	c.LeafLifetime = 30 * days
	if _, err := Rotate(testNow(), c, []string{"controller-manager"}); err != nil {
		t.Fatal(err)
	}
	c.LeafLifetime = 0
	remove(c.LeafPair(KubeProxyClient).Cert)
	spill(t, c.LeafPair(KubeletClient).Key, []byte("torn"))
	spill(t, c.LeafPair(SupervisorClient).Cert, slurp(t, c.LeafPair(AdminClient).Cert))
	spill(t, c.LeafPair(SupervisorClient).Key, slurp(t, c.LeafPair(AdminClient).Key))
	c.NodeName = "node-2"
	before := snapshot(t, c)
	check(t, "inventory.golden", table(t, testNow().Add(40*days+time.Minute), c), dir)
	if !maps.Equal(before, snapshot(t, c)) {
		t.Error("looking changed files")
	}
}

// TestInventoryOfNothing is what a machine without a server shows.
func TestInventoryOfNothing(t *testing.T) {
	dir := t.TempDir()
	check(t, "inventory-empty.golden", table(t, testNow(), Config{DataDir: dir + "/data"}), dir)
}

// TestInventoryWithoutConfiguration must not take the names of a server it
// does not know for wrong.
func TestInventoryWithoutConfiguration(t *testing.T) {
	started := startedConfig(t)
	for _, when := range []struct {
		after time.Duration
		want  Status
	}{
		{days, StatusOK},
		{250 * days, StatusDue},
		{366 * days, StatusExpired},
		{-31 * days, StatusNotYet},
	} {
		rows, err := Inventory(testNow().Add(when.after), Config{DataDir: started.DataDir, Agent: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			want := when.want
			if row.Service == "ca" && (want == StatusDue || want == StatusExpired) {
				want = StatusOK // authorities live longer
			}
			if row.Status != want {
				t.Errorf("after %v %s is %s (%s), want %s", when.after, row.Name, row.Status, row.Reason, want)
			}
		}
	}
}

func table(t *testing.T, now time.Time, c Config) string {
	t.Helper()
	rows, err := Inventory(now, c)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	// The width of columns would depend on the length of the directory's name.
	for i := range rows {
		rows[i].Path = strings.Replace(rows[i].Path, strings.TrimSuffix(c.DataDir, "/data"), "DIR", 1)
	}
	if err := WriteTable(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

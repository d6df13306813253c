package flannel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flannel-io/flannel/pkg/subnet"
)

func TestForward(t *testing.T) {
	for name, tt := range map[string]struct {
		v4, v6, want string
		network      subnet.Config
	}{
		"off":        {"0\n", "0\n", "1 0", subnet.Config{EnableIPv4: true}},
		"dual stack": {"0\n", "0\n", "1 1", subnet.Config{EnableIPv4: true, EnableIPv6: true}},
		"on already": {"1\n", "2\n", "1 2", subnet.Config{EnableIPv4: true, EnableIPv6: true}},
	} {
		root := t.TempDir()
		for file, text := range map[string]string{forwardIPv4: tt.v4, forwardIPv6: tt.v6} {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := forward(root, &tt.network); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, file := range []string{forwardIPv4, forwardIPv6} {
			b, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSpace(string(b)))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", name, got, tt.want)
		}
	}
	if err := forward(t.TempDir(), &subnet.Config{EnableIPv4: true}); err == nil || !strings.Contains(err.Error(), "sysctl -w net.ipv4.ip_forward=1") {
		t.Errorf("got %v", err)
	}
}

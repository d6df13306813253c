package coredns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
)

// Every plugin that the bundled Corefile and usual snippets name is there. The names are those of Corefiles.
func TestPlugins(t *testing.T) {
	for _, want := range strings.Fields(`errors health ready kubernetes hosts prometheus forward cache loop reload
		loadbalance log template rewrite file bind acl any autopath bufsize cancel debug dns64 header k8s_external
		local metadata minimal multisocket nsid root secondary timeouts transfer view`) {
		if _, err := caddy.DirectiveAction(serverType, want); err != nil {
			t.Error(err)
		}
	}
}

// One life of the server: it starts in spite of a wrong snippet, and follows changes, but for wrong ones. CoreDNS runs
// once in a process, so this is one test.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t)
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	corefile := `.:%d {
		bind 127.0.0.1
		errors
		hosts {
			192.0.2.1 base.example
			fallthrough
		}
		import ` + dir + `/custom/*.override
		import ` + dir + `/host/*.forward
	}
	import ` + dir + `/custom/*.server
	`
	write("Corefile", fmt.Sprintf(corefile, port))
	write("custom/a.override", "no-such-plugin\n")
	write("host/host.forward", "")

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c := Config{Corefile: filepath.Join(dir, "Corefile"), Snippets: filepath.Join(dir, "custom")}
	go func() { done <- Run(ctx, c, slog.New(slog.DiscardHandler)) }()
	stopped := false
	stop := func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Errorf("Run() = %v", err)
			}
		}
	}
	defer stop()
	server := fmt.Sprintf("127.0.0.1:%d", port)

	eventually(t, "a wrong snippet", server, "base.example.", "192.0.2.1")
	write("custom/a.override", "template IN A template.example {\nanswer \"{{ .Name }} 60 IN A 192.0.2.2\"\n}\n")
	eventually(t, "the snippet mended", server, "template.example.", "192.0.2.2")
	eventually(t, "the snippet mended", server, "base.example.", "192.0.2.1")
	write("custom/b.server", fmt.Sprintf("zone.example:%d {\nbind 127.0.0.1\nhosts {\n192.0.2.3 www.zone.example\n}\n}\n", port))
	eventually(t, "a server of the user's", server, "www.zone.example.", "192.0.2.3")
	write("custom/a.override", "template IN A\nunknown\n")
	write("host/host.forward", "rewrite name other.example base.example\n")
	eventually(t, "a snippet broken again, and a change of the host's", server, "other.example.", "192.0.2.1")
	stop()
	if _, err := ask(server, "base.example."); err == nil {
		t.Error("it answers after its end")
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func ask(server, name string) (string, error) {
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	answer, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, server)
	if err != nil {
		return "", err
	}
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String(), nil
		}
	}
	return dns.RcodeToString[answer.Rcode], nil
}

// eventually asks until the answer is as wanted.
func eventually(t *testing.T, after, server, name, want string) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if got, err = ask(server, name); err == nil && got == want {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatalf("after %s: %s is %q (%v), want %q", after, name, got, err, want)
}

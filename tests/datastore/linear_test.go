package datastore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	clients      = 6
	keys         = 4
	crashes      = 8
	betweenCrash = 700 * time.Millisecond
)

// input is one call on one key. Values are unique, so they stand for revisions.
type input struct {
	op       byte // 'g' get, 'p' put if the key has value from ("" is: does not exist), 'd' delete if it has value from
	key      int
	from, to string
}

// output is how it ended. unknown means that no answer came: the server may have done it or not, then or later.
type output struct {
	unknown bool
	ok      bool
	seen    string // by a get, or by a put or delete that failed
}

// register is the specification of one key.
func register() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := make([][]porcupine.Operation, keys)
			for _, o := range history {
				k := o.Input.(input).key
				parts[k] = append(parts[k], o)
			}
			return parts
		},
		Init: func() []any { return []any{""} },
		Step: func(state, in, out any) []any {
			value, i, o := state.(string), in.(input), out.(output)
			done := i.to // of a put; a delete's is "", no key
			switch {
			case i.op == 'g' && o.unknown:
				return []any{value}
			case i.op == 'g':
				if value == o.seen {
					return []any{value}
				}
				return nil
			case o.unknown && value == i.from:
				return []any{value, done}
			case o.unknown:
				return []any{value}
			case o.ok && value == i.from:
				return []any{done}
			case !o.ok && value != i.from && value == o.seen:
				return []any{value}
			}
			return nil
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
	return m.ToModel()
}

// server is a store in another process, to be killed.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	sock string
}

func startServer(t *testing.T, dir, sock string) *server {
	t.Helper()
	s := &server{t: t, sock: sock}
	s.cmd = exec.Command("/proc/self/exe")
	s.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=|%s|unix://%s", envServe, dir, sock))
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("server did not start: %q %v", line, err)
	}
	return s
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
}

// kill ends the server without notice.
func (s *server) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	_ = s.cmd.Wait() // reports the kill
}

// history records what clients do.
type history struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	clock time.Time
	next  atomic.Int64 // for unique values
	id    atomic.Int64 // of clients
}

func (h *history) now() int64 { return int64(time.Since(h.clock)) }

func (h *history) add(client int, in input, call int64, out output) {
	o := porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: h.now()}
	if out.unknown {
		o.Return = 1 << 62
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// work does random calls until ctx ends. After a call without an answer the client goes on under a new id, since the
// old one's call never returned.
func (h *history) work(ctx context.Context, c *clientv3.Client, rng *rand.Rand) {
	id := int(h.id.Add(1))
	type seen struct {
		value string
		rev   int64
	}
	last := map[int]seen{}
	for ctx.Err() == nil {
		in := input{op: "gppd"[rng.IntN(4)], key: rng.IntN(keys)}
		if rng.IntN(4) == 0 {
			in.op = 'p'
		}
		in.from = last[in.key].value
		if in.op == 'd' && in.from == "" {
			in.op = 'g'
		}
		if in.op == 'p' {
			in.to = fmt.Sprint("v", h.next.Add(1))
		}
		call := h.now()
		out, rev := h.call(ctx, c, in, last[in.key].rev)
		h.add(id, in, call, out)
		switch {
		case out.unknown:
			id = int(h.id.Add(1))
		case in.op == 'g', !out.ok:
			last[in.key] = seen{out.seen, rev}
		default:
			last[in.key] = seen{in.to, rev}
		}
	}
}

// call makes one call, and returns with it the revision of the key.
func (h *history) call(ctx context.Context, c *clientv3.Client, in input, rev int64) (output, int64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	key := fmt.Sprint("/key/", in.key)
	if in.op == 'g' {
		r, err := c.Get(ctx, key)
		if err != nil {
			return output{unknown: true}, 0
		}
		if len(r.Kvs) == 0 {
			return output{}, 0
		}
		return output{seen: string(r.Kvs[0].Value)}, r.Kvs[0].ModRevision
	}
	then := clientv3.OpDelete(key)
	if in.op == 'p' {
		then = clientv3.OpPut(key, in.to)
	}
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).Then(then).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return output{unknown: true}, 0
	case r.Succeeded && in.op == 'd':
		return output{ok: true}, 0
	case r.Succeeded:
		return output{ok: true}, r.Header.Revision
	}
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		return output{seen: string(kvs[0].Value)}, kvs[0].ModRevision
	}
	return output{}, 0
}

// checkHistory runs clients against a store while crash is called now and then, and checks what they saw.
func checkHistory(t *testing.T, sock string, crash func(i int)) {
	t.Helper()
	h := &history{clock: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range clients {
		c := connect(t, "unix://"+sock)
		wg.Go(func() { h.work(ctx, c, rand.New(rand.NewPCG(uint64(i), 5))) })
	}
	for i := range crashes {
		<-time.After(betweenCrash)
		crash(i)
	}
	<-time.After(betweenCrash)
	cancel()
	wg.Wait()
	done, unknown := 0, 0
	for _, o := range h.ops {
		if o.Output.(output).unknown {
			unknown++
		} else {
			done++
		}
	}
	t.Logf("%d calls answered, %d not, %d crashes", done, unknown, crashes)
	if done < 500 || unknown < crashes {
		t.Errorf("too little happened for the check to mean something")
	}
	result, info := porcupine.CheckOperationsVerbose(register(), h.ops, 2*time.Minute)
	if result != porcupine.Ok {
		file := filepath.Join(os.TempDir(), t.Name()+".html")
		if err := porcupine.VisualizePath(register(), info, file); err != nil {
			t.Error(err)
		}
		t.Errorf("history is not linearizable: %s; see %s", result, file)
	}
}

func TestLinearizableAcrossKills(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	s := startServer(t, filepath.Join(dir, "db"), sock)
	checkHistory(t, sock, func(int) {
		s.kill()
		s = startServer(t, filepath.Join(dir, "db"), sock)
	})
	s.kill()
}

// TestLinearizableAcrossPowerCuts goes on from the cut disk each time.
func TestLinearizableAcrossPowerCuts(t *testing.T) {
	d := newDisk(t)
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	s := startServer(t, filepath.Join(d.dir, "db"), sock)
	checkHistory(t, sock, func(i int) {
		s.signal(syscall.SIGSTOP) // from here on nothing is acknowledged
		image := d.cutPower()
		s.kill()
		mnt := filepath.Join(dir, fmt.Sprint("disk", i+1))
		d.replace(image, mnt)
		s = startServer(t, filepath.Join(mnt, "db"), sock)
	})
	s.kill()
}

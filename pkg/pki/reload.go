package pki

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// reloadInterval is how long a certificate in use is trusted to be the one on
// disk. It bounds what a flood of connections costs: two calls of stat a second.
const reloadInterval = time.Second

// ReloadingCertificate gives a TLS listener or client of ours the certificate
// that is on disk now. It needs no goroutine and no notification: the files are
// looked at, at most once a second, when a handshake asks. A pair that cannot
// be read, or is half written, is passed over for the one before.
//
// Use it as tls.Config.GetCertificate or GetClientCertificate. Upstream's
// components watch their files themselves.
type ReloadingCertificate struct {
	pair Pair

	mu      sync.Mutex
	checked time.Time
	stamps  [2]fileStamp
	current *tls.Certificate
}

// fileStamp tells versions of a file apart. The inode does it alone for files
// that are replaced by renaming; size and time catch one edited in place.
type fileStamp struct {
	info    fs.FileInfo
	size    int64
	modTime time.Time
}

func (s fileStamp) same(other fileStamp) bool {
	return s.info != nil && other.info != nil && os.SameFile(s.info, other.info) &&
		s.size == other.size && s.modTime.Equal(other.modTime)
}

// NewReloadingCertificate returns a holder for pair. It reads nothing yet.
func NewReloadingCertificate(pair Pair) *ReloadingCertificate {
	return &ReloadingCertificate{pair: pair}
}

// GetCertificate is for tls.Config.GetCertificate.
func (r *ReloadingCertificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.load()
}

// GetClientCertificate is for tls.Config.GetClientCertificate.
func (r *ReloadingCertificate) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.load()
}

func (r *ReloadingCertificate) load() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil && time.Since(r.checked) < reloadInterval {
		return r.current, nil
	}
	r.checked = time.Now()
	stamps, err := r.stat()
	if err == nil && r.current != nil && stamps[0].same(r.stamps[0]) && stamps[1].same(r.stamps[1]) {
		return r.current, nil
	}
	if err == nil {
		var fresh tls.Certificate
		if fresh, err = tls.LoadX509KeyPair(r.pair.Cert, r.pair.Key); err == nil {
			r.current, r.stamps = &fresh, stamps
		}
	}
	if r.current == nil {
		return nil, fmt.Errorf("load certificate %s: %w", r.pair.Cert, err)
	}
	return r.current, nil // the one before, if the new one cannot be used yet
}

// stat is taken before the files are read, so that a change in between makes
// the next look read them again.
func (r *ReloadingCertificate) stat() (stamps [2]fileStamp, err error) {
	for i, path := range []string{r.pair.Cert, r.pair.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return stamps, err
		}
		stamps[i] = fileStamp{info: info, size: info.Size(), modTime: info.ModTime()}
	}
	return stamps, nil
}

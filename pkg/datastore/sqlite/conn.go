package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// conn is one SQLite connection, used below database/sql: its pool, its locks and its conversions cost more than the
// statements here do. Not safe for concurrent use.
type conn struct {
	c *sqlite3.SQLiteConn
}

// openConn opens a connection to the file at path. Every connection reads strictly (cell_size_check) and keeps its
// page cache small: values that are wanted again are in the [cache], pages in the kernel's. A file that is none of
// SQLite's is a [*DamageError], here or when it is read: that depends on whether a log lies beside it.
func openConn(path string, mode string, pragmas ...string) (*conn, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_mutex=no&mode=" + mode
	dc, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, readError(path, fmt.Errorf("open database %s: %w", path, err))
	}
	sc, ok := dc.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open database %s: unexpected driver connection %T", path, dc), dc.Close())
	}
	c := &conn{c: sc}
	for _, p := range append([]string{"busy_timeout=10000", "cell_size_check=ON", "temp_store=MEMORY"}, pragmas...) {
		if err := c.exec("PRAGMA " + p); err != nil {
			return nil, errors.Join(readError(path, err), c.close())
		}
	}
	return c, nil
}

func (c *conn) close() error {
	if err := c.c.Close(); err != nil {
		return fmt.Errorf("close database connection: %w", err)
	}
	return nil
}

// exec runs statements without parameters and results.
func (c *conn) exec(sql string) error {
	if _, err := c.c.Exec(sql, nil); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// ints runs a query and returns its first row, which must be of integers only. ok is false when there is no row.
func (c *conn) ints(sql string, args ...driver.Value) (row []int64, ok bool, err error) {
	rows, err := c.c.Query(sql, args)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", sql, err)
	}
	defer rows.Close()
	vals := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(vals); errors.Is(err, io.EOF) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("%s: %w", sql, err)
	}
	for _, v := range vals {
		n, isInt := v.(int64)
		if !isInt {
			return nil, false, fmt.Errorf("%s: column is a %T, want an integer", sql, v)
		}
		row = append(row, n)
	}
	return row, true, nil
}

// text runs a query and returns the first column of each row as text.
func (c *conn) text(sql string) ([]string, error) {
	rows, err := c.c.Query(sql, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	defer rows.Close()
	vals := make([]driver.Value, len(rows.Columns()))
	var out []string
	for {
		if err := rows.Next(vals); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", sql, err)
		}
		if len(vals) > 0 { // some pragmas give rows without columns
			out = append(out, fmt.Sprint(vals[0]))
		}
	}
}

// stmt is a prepared statement of one connection.
type stmt struct {
	s    *sqlite3.SQLiteStmt
	sql  string
	dest []driver.Value
}

func (c *conn) prepare(sql string, columns int) (*stmt, error) {
	ds, err := c.c.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", sql, err)
	}
	s, ok := ds.(*sqlite3.SQLiteStmt)
	if !ok {
		return nil, fmt.Errorf("prepare %s: unexpected driver statement %T", sql, ds)
	}
	return &stmt{s: s, sql: sql, dest: make([]driver.Value, columns)}, nil
}

func (s *stmt) exec(args ...driver.Value) error {
	if _, err := s.s.Exec(args); err != nil {
		return fmt.Errorf("%s: %w", s.sql, err)
	}
	return nil
}

// each calls f with the values of every row; they are valid during the call only, but the []byte in them are f's to
// keep. f returning false ends the query.
func (s *stmt) each(f func(row []driver.Value) bool, args ...driver.Value) (err error) {
	rows, err := s.s.Query(args)
	if err != nil {
		return fmt.Errorf("%s: %w", s.sql, err)
	}
	defer func() {
		if cerr := rows.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("%s: %w", s.sql, cerr)
		}
	}()
	for {
		if err := rows.Next(s.dest); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", s.sql, err)
		}
		if !f(s.dest) {
			return nil
		}
	}
}

func (s *stmt) close() error {
	if err := s.s.Close(); err != nil {
		return fmt.Errorf("finalize %s: %w", s.sql, err)
	}
	return nil
}

// recoverable tells whether the database is as it was before the failed transaction, so that the store can go on: the
// disk or the file's allowed size ran out, for the log or for its index. After anything else, an fsync that failed above
// all, only a new start from what is on disk is safe. When the index could not grow, the log may hold the whole
// transaction: the next one overwrites it, and if power fails before, a write that was answered with an error has happened
// after all, as with any write whose answer is lost.
func recoverable(err error) bool {
	var se sqlite3.Error
	return errors.As(err, &se) &&
		(se.Code == sqlite3.ErrFull || se.ExtendedCode == sqlite3.ErrIoErrSHMSize && se.SystemErrno == syscall.ENOSPC)
}

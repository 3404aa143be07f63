"""The console: server-rendered pages for operators, at ``/console`` and ``/results`` of the admin listener.

How to add a page:

1. Write one module in ``pages/`` with a class. Its constructor takes the services that it reads, the same ones as the
   admin API uses. Its handlers take a :class:`~receiver.web.console.gate.Visit` and return a response:
   ``visit.page("name.html", title="Name", ...)`` fills a template, ``visit.redirect(...)`` follows an action.
2. Return its routes from ``routes(gate)``: ``gate.page(path, handler)`` for a page and ``gate.action(path, handler)``
   for a form's POST. The gate refuses an action of a reader or of another origin. A middleware lets only visitors
   with a session open any path under ``/console`` and ``/results``.
3. Add the class to ``page_routes``, and a line to ``navigation`` if the page belongs into the menu.
4. Write ``templates/name.html``, which extends ``layout.html``. It works without JavaScript: links and forms. What is
   inside ``<main>`` follows the store live, unless the page sets ``live`` to false.

Templates use the macros of ``parts.html``, and the classes and custom properties of ``static/console.css``. The
Content-Security-Policy permits no inline script or style. A chart is SVG that :mod:`receiver.web.console.charts` makes.
"""
